"""Prices of groups that explain a balanced assignment.

Shape suffixes: V hosted ranks, T tokens, G groups.
"""

import torch
from torch import Tensor


def assignment_prices(scores_VTG: Tensor, group_VT: Tensor) -> Tensor:
    """Prices at which each token would choose the group that it was given, (V, G), of mean 0.

    They are dual prices of the balanced assignment: every token of a group g likes s_g − p_g at
    least as much as any s_h − p_h. Of all such prices it is the middle between the lowest and the
    highest. 0 for a group without tokens on a rank without any.

    Args:
        scores_VTG: finite at real tokens.
        group_VT: an assignment of the largest summed score; -1: padding.
    """
    num_groups = scores_VTG.shape[-1]
    scores_VTG = scores_VTG.detach().double()
    own_VT1 = scores_VTG.gather(2, group_VT.clamp(min=0).unsqueeze(-1))
    regret_VTG = (scores_VTG - own_VT1).masked_fill((group_VT < 0).unsqueeze(-1), -torch.inf)
    # What the token of g that likes h most would gain there: p_h − p_g is at least that.
    gain_VGG = scores_VTG.new_full((scores_VTG.shape[0], num_groups, num_groups), -torch.inf)
    index_VTG = group_VT.clamp(min=0).unsqueeze(-1).expand_as(regret_VTG)
    gain_VGG = gain_VGG.scatter_reduce(1, index_VTG, regret_VTG, "amax")
    lowest_VG = scores_VTG.new_zeros(scores_VTG.shape[0], num_groups)
    highest_VG = lowest_VG.clone()
    for _ in range(num_groups):  # paths have no more arcs than that
        through_VG = (lowest_VG.unsqueeze(2) + gain_VGG).amax(dim=1)
        lowest_VG = torch.maximum(lowest_VG, through_VG)
        through_VG = (highest_VG.unsqueeze(1) - gain_VGG).amin(dim=2)
        highest_VG = torch.minimum(highest_VG, through_VG)
    prices_VG = _centred(lowest_VG) / 2 + _centred(highest_VG) / 2
    return prices_VG.nan_to_num(0, posinf=0, neginf=0)


def _centred(prices_VG: Tensor) -> Tensor:
    return prices_VG - prices_VG.mean(dim=1, keepdim=True)
