"""All-to-alls of rows between processes, with gradients: started, and finished later.

In between a process can compute. Exchanges of one layer stand on one `Line`, which fixes their
order. Each start or finish takes in, beside its rows, a scalar that stands for what was on the
line before, and gives out one that stands for itself; so autograd knows that it came later, and
must go back through it earlier. A finish going back starts the gradients' travel, a start going
back waits for them: the backward pass posts in the reverse order of the forward pass, on every
process alike, whatever autograd prefers.

The scalars carry no gradient: going back, every start and finish hands None to them. Autograd
runs a function once all that used its outputs has run, whether or not anyone gave it a gradient,
and that is what a start waits for: its finish, which uses its scalar.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from user_dir.fast_moe.gathers import Permutation


class Line:
    """The order of the exchanges of a layer."""

    def __init__(self) -> None:
        # A scalar whose history is that of everything on the line so far.
        self.end: Tensor | None = None


class Exchange:
    """One all-to-all of rows: `start`, then `finish`, each once.

    Args:
        group: processes that swap rows; None: they stay in this one, in their order.
        send_counts, receive_counts: rows for and from each process of the group, in its order.
        before: how rows are ordered to leave; None: they lie so.
        after: how rows that arrived are ordered; None: they stay so.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        *,
        send_counts: list[int],
        receive_counts: list[int],
        before: Permutation | None = None,
        after: Permutation | None = None,
    ):
        self.group = group
        self.send_counts, self.receive_counts = send_counts, receive_counts
        self.before, self.after = before, after
        self.gradients: Exchange | None = None  # under way in the backward pass
        self._started: Tensor | None = None
        self._posted: tuple[Tensor, Tensor, list[Any]] | None = None

    def reversed(self) -> "Exchange":
        """The way back of rows that answer those that came this way, and of gradients."""
        return Exchange(
            self.group,
            send_counts=self.receive_counts,
            receive_counts=self.send_counts,
            before=self.after.reversed() if self.after else None,
            after=self.before.reversed() if self.before else None,
        )

    def again(self) -> "Exchange":
        """One more on the same way."""
        return self.reversed().reversed()

    def start(self, rows_M: Tensor, line: Line) -> None:
        """Let rows leave. Communicates, without waiting."""
        if self.group is None:
            self._started = rows_M
            return
        self._started = line.end = _Start.apply(rows_M, line.end, self)

    def finish(self, line: Line) -> Tensor:
        """Wait for the rows that arrive here."""
        started, self._started = self._started, None
        assert started is not None
        if self.group is None:
            return started
        arrived_M, line.end = _Finish.apply(started, line.end, self)
        return arrived_M

    def run(self, rows_M: Tensor) -> Tensor:
        """Start and finish at once, without a gradient."""
        self.post(rows_M)
        return self.wait()

    def post(self, rows_M: Tensor) -> None:
        """Start, as far as the wire is concerned."""
        assert self._posted is None
        if self.group is None:
            self._posted = rows_M, rows_M, []
            return
        if self.before is not None:
            rows_M = self.before.apply(rows_M)
        rows_M = rows_M.contiguous()
        received_M = rows_M.new_empty(sum(self.receive_counts), *rows_M.shape[1:])
        if dist.get_backend(self.group) == "gloo":
            works = self._post_point_to_point(received_M, rows_M)
        else:
            works = [
                dist.all_to_all_single(
                    received_M,
                    rows_M,
                    self.receive_counts,
                    self.send_counts,
                    group=self.group,
                    async_op=True,
                )
            ]
        # What is sent must live until it has left.
        self._posted = received_M, rows_M, works

    def wait(self) -> Tensor:
        """Finish, as far as the wire is concerned; on a GPU the current stream waits."""
        assert self._posted is not None
        received_M, _, works = self._posted
        for work in works:
            work.wait()
        self._posted = None
        return received_M if self.after is None else self.after.apply(received_M)

    def _post_point_to_point(self, received_M: Tensor, rows_M: Tensor) -> list[Any]:
        """Every receive before any send: steadier over slow links than gloo's own all-to-all."""
        own, group = dist.get_rank(self.group), self.group
        incoming = received_M.split(self.receive_counts)
        outgoing = rows_M.split(self.send_counts)
        incoming[own].copy_(outgoing[own])
        # Beginning with the next process, so that not all of them send to the same one at first.
        peers = [(own + step) % len(incoming) for step in range(1, len(incoming))]
        return [
            dist.irecv(incoming[peer], group=group, group_src=peer)
            for peer in peers
            if self.receive_counts[peer]
        ] + [
            dist.isend(outgoing[peer], group=group, group_dst=peer)
            for peer in peers
            if self.send_counts[peer]
        ]


class _Start(torch.autograd.Function):
    """Gives the scalar that stands for the start; going back it waits for the gradients."""

    @staticmethod
    def forward(ctx, rows_M: Tensor, after: Tensor | None, exchange: Exchange) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.exchange = exchange
        exchange.post(rows_M)
        return rows_M.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        gradients, ctx.exchange.gradients = ctx.exchange.gradients, None
        return gradients.wait(), None, None


class _Finish(torch.autograd.Function):
    """Gives what arrived and the line's new end; going back it starts the gradients' travel."""

    @staticmethod
    def forward(ctx, start: Tensor, after: Tensor | None, exchange: Exchange):
        ctx.set_materialize_grads(False)
        ctx.exchange = exchange
        arrived_M = exchange.wait()
        ctx.like = arrived_M.new_empty(0), arrived_M.shape
        return arrived_M, start.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_M: Tensor | None, _):
        if ctx.needs_input_grad[0]:  # else no start is there to wait for it
            if grad_M is None:  # nobody read it here, but other processes wait for the gradient
                empty, shape = ctx.like
                grad_M = empty.new_zeros(shape)
            ctx.exchange.gradients = ctx.exchange.reversed()
            ctx.exchange.gradients.post(grad_M)
        return None, None, None
