"""Exchange of buffers within blocks of ranks, with gradients.

An exchange is started and later finished, so that a process can compute in between. Exchanges
that overlap go on one `Line`, which fixes their order: a start or finish comes after what was on
the line before, and in the backward pass before it, the starts of one pass being the finishes of
the other. So every process does the same in the same order, whatever autograd prefers.

Shape suffixes: V hosted ranks, B ranks of a block, n experts of a rank, M rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from user_dir.fast_moe.exchange.old_wire import Posted, post
from user_dir.fast_moe.exchange.plan import ExchangePlan


class Line:
    """The order of exchanges that overlap."""

    def __init__(self) -> None:
        # A scalar whose history is that of everything on the line so far.
        self.end: Tensor | None = None


class Exchange:
    """An exchange under way; `finish` gives what arrived."""

    def __init__(self, start: Tensor, way: "_Way"):
        self._start = start
        self._way = way

    def finish(self, line: Line | None = None) -> Tensor:
        """Wait for what arrives; to be called once."""
        arrived, end = _Finish.apply(self._start, line.end if line else None, self._way)
        if line is not None:
            line.end = end
        return arrived


def start_exchange(x_VB: Tensor, plan: ExchangePlan, line: Line | None = None) -> Exchange:
    """Begin to hand every buffer x[v, j] to rank j of v's block.

    Args:
        x_VB: (V, B, …), equal shapes on every process.

    Returns:
        an exchange that gives y with y[v, i] = what rank i of v's block held for v; same shape. It
        is its own inverse, and its own gradient.
    """
    return _start(x_VB, _PairWay(plan), line)


def start_exchange_rows(
    rows_MD: Tensor,
    plan: ExchangePlan,
    *,
    send_counts: list[int],
    receive_counts: list[int],
    line: Line | None = None,
) -> Exchange:
    """Begin an all-to-all of rows that lie in sending order; counts are rows for each peer."""
    return _start(rows_MD, _RowWay(plan, send_counts, receive_counts), line)


def exchange(x_VB: Tensor, plan: ExchangePlan) -> Tensor:
    """`start_exchange`, finished at once."""
    return start_exchange(x_VB, plan).finish()


def _start(x: Tensor, way: "_Way", line: Line | None) -> Exchange:
    start = _Start.apply(x, line.end if line else None, way)
    if line is not None:
        line.end = start
    return Exchange(start, way)


@dataclass
class _Travel:
    """One direction of an exchange, from its start to its finish."""

    posted: Posted
    arrange: Callable[[Tensor], Tensor]  # from the order of arrival to the result

    def finish(self) -> Tensor:
        return self.arrange(self.posted.wait())


class _Way:
    """How tensors travel, and the gradients back; holds the one that is travelling."""

    def __init__(self) -> None:
        self._travel: _Travel | None = None

    def begin(self, x: Tensor, *, is_gradient: bool) -> None:
        assert self._travel is None
        self._travel = self._post(x, is_gradient=is_gradient)

    def end(self) -> Tensor:
        assert self._travel is not None
        arrived, self._travel = self._travel.finish(), None
        return arrived

    def _post(self, x: Tensor, *, is_gradient: bool) -> _Travel:
        raise NotImplementedError


class _PairWay(_Way):
    def __init__(self, plan: ExchangePlan):
        super().__init__()
        self.plan = plan

    def _post(self, x: Tensor, *, is_gradient: bool) -> _Travel:
        plan = self.plan
        if plan.block_size == 1:
            return _Travel(post(x, None, [], []), lambda arrived: arrived)
        send_order, home = plan.orders_on(x.device)
        shape = x.shape
        # Flat rows: index_select is many times slower on rows of several dimensions.
        pairs = x.reshape(send_order.shape[0], -1).index_select(0, send_order)
        posted = post(pairs, plan.group, list(plan.send_splits), list(plan.receive_splits))
        return _Travel(posted, lambda arrived: arrived.index_select(0, home).view(shape))


class _RowWay(_Way):
    def __init__(self, plan: ExchangePlan, send_counts: list[int], receive_counts: list[int]):
        super().__init__()
        self.group = plan.group
        self.counts = send_counts, receive_counts

    def _post(self, x: Tensor, *, is_gradient: bool) -> _Travel:
        send, receive = reversed(self.counts) if is_gradient else self.counts
        return _Travel(post(x.contiguous(), self.group, send, receive), lambda arrived: arrived)


class _Start(torch.autograd.Function):
    """Gives a scalar that stands for the start; backwards it finishes the gradients' travel."""

    @staticmethod
    def forward(ctx, x: Tensor, after: Tensor | None, way: _Way) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.way = way
        way.begin(x, is_gradient=False)
        return x.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        return ctx.way.end(), None, None


class _Finish(torch.autograd.Function):
    """Gives what arrived and the line's new end; backwards it starts the gradients' travel."""

    @staticmethod
    def forward(ctx, start: Tensor, after: Tensor | None, way: _Way) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.way = way
        arrived = way.end()
        ctx.shape, ctx.options = arrived.shape, {"dtype": arrived.dtype, "device": arrived.device}
        return arrived, start.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, _):
        if ctx.needs_input_grad[0]:  # else no start is there to finish it
            if grad is None:  # nobody read it here, but other processes wait for the gradient
                grad = torch.zeros(ctx.shape, **ctx.options)
            ctx.way.begin(grad, is_gradient=True)
        return None, None, None
