"""How far each token may travel: SCoMoE-Seq's partition of a rank's tokens.

Zeng and Xiong (2023), section 3.1. Shape suffixes: V hosted ranks, T tokens, E experts.
"""

import torch
from torch import Tensor

from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.tokens.ranked import RankedTokens

REACH_IDS = {reach: index for index, reach in enumerate(Reach)}


def reach_of_tokens(z_VTE: Tensor, tokens: RankedTokens, *, topology: Topology) -> Tensor:
    """Give every real token its reach: those that like their own rank's experts best stay there.

    LOCAL are the ⌊α·T⌋ tokens of a rank with the highest mean score over the rank's experts; NODE
    the ⌊β·T⌋ of the rest with the highest mean score over the node's (all of the rest if α + β is
    1); GLOBAL what remains. Ties by token index.

    Args:
        z_VTE: scores of all experts.

    Returns:
        (V, T) ids of `REACH_IDS`; -1 at padding.
    """
    reach_VT = torch.full_like(tokens.is_pad_VT, REACH_IDS[Reach.GLOBAL], dtype=torch.int64)
    is_taken_VT = tokens.is_pad_VT
    for reach in Reach.LOCAL, Reach.NODE:
        quota_V = tokens.quotas_VR[:, REACH_IDS[reach]]
        experts_VR = topology.experts_in(reach, z_VTE.device)
        score_VT = select_experts(z_VTE.detach(), experts_VR).mean(dim=-1)
        is_best_VT = _best(score_VT, is_taken_VT, quota_V)
        reach_VT = reach_VT.masked_fill(is_best_VT, REACH_IDS[reach])
        is_taken_VT = is_taken_VT | is_best_VT
    return reach_VT.masked_fill(tokens.is_pad_VT, -1)


def select_experts(z_VTE: Tensor, experts_VR: Tensor) -> Tensor:
    """The scores (V, T, experts in reach) of each hosted rank's own choice of experts."""
    num_tokens = z_VTE.shape[1]
    index = experts_VR.unsqueeze(1).expand(-1, num_tokens, -1)
    return z_VTE.gather(-1, index)


def _best(score_VT: Tensor, is_taken_VT: Tensor, quota_V: Tensor) -> Tensor:
    """The free tokens with the highest scores, as many as each rank's quota."""
    score_VT = score_VT.masked_fill(is_taken_VT, float("-inf"))
    # Taken tokens last, whatever the scores of the others are.
    order_VT = score_VT.argsort(dim=-1, descending=True, stable=True)
    order_VT = order_VT.gather(-1, is_taken_VT.gather(-1, order_VT).long().argsort(stable=True))
    places_T = torch.arange(score_VT.shape[1], device=score_VT.device)
    is_within_VT = places_T < quota_V.unsqueeze(-1)
    return torch.zeros_like(is_taken_VT).scatter(-1, order_VT, is_within_VT)
