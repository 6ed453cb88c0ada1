"""Gathers whose gradients are gathers too: deterministic, without atomics.

Shape suffixes: N rows read, M rows written, K places that one row may go to, D width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


def gather_rows(x_ND: Tensor, index_M: Tensor, inverse_NK: Tensor) -> Tensor:
    """x[index], 0 where the index is -1.

    Args:
        inverse_NK: the places in ``index_M`` that hold each row of x, -1 where there are fewer
            than K; with it the gradient is a sum of K gathers.
    """
    return _GatherRows.apply(x_ND, index_M, inverse_NK)


def weighted_sum(
    rows_MD: Tensor,
    weights_NK: Tensor,
    row_NK: Tensor,
    token_M: Tensor,
    choice_M: Tensor,
) -> Tensor:
    """y[n] = Σ_k weights[n, k] · rows[row[n, k]], without the terms where the row is -1.

    Args:
        token_M, choice_M: the inverse of ``row_NK``: which (n, k) each row serves; -1: none.
    """
    return _WeightedSum.apply(rows_MD, weights_NK, row_NK, token_M, choice_M)


def _take(x_ND: Tensor, index_M: Tensor) -> Tensor:
    if x_ND.shape[0] == 0:
        return x_ND.new_zeros(index_M.shape[0], *x_ND.shape[1:])
    # An expanded gather: several times faster than index_select on a CPU.
    index_MD = index_M.clamp(min=0).unsqueeze(-1).expand(-1, x_ND.shape[1])
    y_MD = x_ND.gather(0, index_MD)
    is_absent_M = index_M < 0
    if y_MD.device.type != "cpu":  # to list the absent rows, the host would have to wait
        return y_MD.masked_fill_(is_absent_M.unsqueeze(-1), 0)
    # Only the absent rows are written.
    return y_MD.index_fill_(0, is_absent_M.nonzero().squeeze(-1), 0)


def _sum_in_place(terms: Iterable[Tensor]) -> Tensor:
    """The sum of tensors that nobody else needs."""
    return reduce(Tensor.add_, terms)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND: Tensor, index_M: Tensor, inverse_NK: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_NK)
        return _take(x_ND, index_M)

    @staticmethod
    def backward(ctx, grad_MD: Tensor):
        (inverse_NK,) = ctx.saved_tensors
        grads = (_take(grad_MD, inverse_N) for inverse_N in inverse_NK.unbind(-1))
        return _sum_in_place(grads), None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows_MD, weights_NK, row_NK, token_M, choice_M) -> Tensor:
        ctx.save_for_backward(rows_MD, weights_NK, row_NK, token_M, choice_M)
        return _sum_in_place(
            _take(rows_MD, row_N).mul_(weights_N.unsqueeze(-1))
            for row_N, weights_N in zip(row_NK.unbind(-1), weights_NK.unbind(-1), strict=True)
        )

    @staticmethod
    def backward(ctx, grad_ND: Tensor):
        rows_MD, weights_NK, row_NK, token_M, choice_M = ctx.saved_tensors
        num_choices = weights_NK.shape[1]
        index_M = torch.where(token_M >= 0, token_M * num_choices + choice_M, -1)
        weight_M1 = _take(weights_NK.reshape(-1, 1), index_M)
        grad_rows_MD = _take(grad_ND, token_M).mul_(weight_M1)
        grad_weights_NK = None
        if ctx.needs_input_grad[1]:
            grad_weights_NK = torch.stack(
                [_take(rows_MD, row_N).mul_(grad_ND).sum(-1) for row_N in row_NK.unbind(-1)], dim=-1
            )
        return grad_rows_MD, grad_weights_NK, None, None, None


def invert_permutation(permutation_VN: Tensor) -> Tensor:
    """The inverse of each row's permutation."""
    num_elements = permutation_VN.shape[-1]
    positions = torch.arange(num_elements, device=permutation_VN.device)
    inverse = torch.empty_like(permutation_VN)
    return inverse.scatter_(-1, permutation_VN, positions.expand_as(permutation_VN))


@dataclass(frozen=True)
class Permutation:
    """An order of equal chunks of rows, and its inverse."""

    order: Tensor
    inverse: Tensor

    @staticmethod
    def of(order: Tensor) -> "Permutation":
        return Permutation(order, invert_permutation(order))

    def reversed(self) -> "Permutation":
        return Permutation(self.inverse, self.order)

    def apply(self, rows_M: Tensor) -> Tensor:
        """The chunks in that order, without a gradient; there are as many rows in each."""
        num_chunks = self.order.shape[0]
        if rows_M.numel() == 0:
            return rows_M
        # Flat: index_select is many times slower on rows of several dimensions.
        return rows_M.reshape(num_chunks, -1).index_select(0, self.order).view(rows_M.shape)
