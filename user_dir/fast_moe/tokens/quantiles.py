"""Tokens by their scores, and the quantiles of these. Shape suffixes: V rows, T tokens of a row."""

import torch
from torch import Tensor


def best_first(score_VT: Tensor, is_absent_VT: Tensor) -> Tensor:
    """Tokens by falling score, then the absent ones, whatever their scores are; ties by index."""
    score_VT = score_VT.masked_fill(is_absent_VT, float("-inf"))
    order_VT = score_VT.argsort(dim=-1, descending=True, stable=True)
    return order_VT.gather(-1, is_absent_VT.gather(-1, order_VT).long().argsort(stable=True))


def upper_quantile(sorted_VT: Tensor, is_absent_VT: Tensor, *, share: float) -> Tensor:
    """The score that the share of the tokens reach, and 1; twice 0 where there is no token.

    Args:
        sorted_VT: scores by `best_first`.

    Returns:
        (V, 2), in double precision.
    """
    num_tokens_V1 = (~is_absent_VT).sum(1, keepdim=True)
    place_V1 = share * (num_tokens_V1 - 1).clamp(min=0).double()
    low_V1 = place_V1.floor().long()
    high_V1 = torch.minimum(low_V1 + 1, (num_tokens_V1 - 1).clamp(min=0))
    low, high = (sorted_VT.gather(1, one).double() for one in (low_V1, high_V1))
    value_V1 = low + (high - low) * (place_V1 - low_V1)
    is_defined_V1 = num_tokens_V1 > 0
    return torch.cat([torch.where(is_defined_V1, value_V1, 0), is_defined_V1.double()], dim=1)
