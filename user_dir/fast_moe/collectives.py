"""Exchange of buffers within blocks of ranks, with gradients. Level 1.

Shape suffixes: V hosted ranks, B ranks of a block, n experts of a rank, M rows.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from user_dir.fast_moe.exchange_plan import ExchangePlan


def exchange(x_VB: Tensor, plan: ExchangePlan) -> Tensor:
    """Hand every buffer x[v, j] to rank j of v's block; its own inverse, and its own gradient.

    Args:
        x_VB: (V, B, …), equal shapes on every process.

    Returns:
        y with y[v, i] = what rank i of v's block held for v; same shape.
    """
    return _Exchange.apply(x_VB, plan)


def exchange_rows(
    rows_MD: Tensor, plan: ExchangePlan, *, send_counts: list[int], receive_counts: list[int]
) -> Tensor:
    """All-to-all of rows that already lie in sending order; counts are rows for each peer."""
    return _ExchangeRows.apply(rows_MD, plan.group, send_counts, receive_counts)


def _swap_pairs(x_VB: Tensor, plan: ExchangePlan) -> Tensor:
    if plan.block_size == 1:
        return x_VB.clone()
    send_order, home = plan.orders_on(x_VB.device)
    # Flat rows: index_select is many times slower on rows of several dimensions.
    pairs = x_VB.reshape(send_order.shape[0], -1).index_select(0, send_order)
    if plan.group is not None:
        received = torch.empty_like(pairs)
        dist.all_to_all_single(
            received, pairs, list(plan.receive_splits), list(plan.send_splits), group=plan.group
        )
        pairs = received
    return pairs.index_select(0, home).view_as(x_VB)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_VB: Tensor, plan: ExchangePlan) -> Tensor:
        ctx.plan = plan
        return _swap_pairs(x_VB, plan)

    @staticmethod
    def backward(ctx, grad_VB: Tensor):
        return _swap_pairs(grad_VB, ctx.plan), None


def _swap_rows(rows_MD: Tensor, group, send_counts: list[int], receive_counts: list[int]) -> Tensor:
    if group is None:
        return rows_MD.clone()
    received = rows_MD.new_empty(sum(receive_counts), *rows_MD.shape[1:])
    dist.all_to_all_single(received, rows_MD.contiguous(), receive_counts, send_counts, group=group)
    return received


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows_MD: Tensor, group, send_counts: list[int], receive_counts: list[int]):
        ctx.counts = (group, receive_counts, send_counts)
        return _swap_rows(rows_MD, group, send_counts, receive_counts)

    @staticmethod
    def backward(ctx, grad_MD: Tensor):
        return _swap_rows(grad_MD, *ctx.counts), None, None, None
