"""Which experts a token goes to, and the slot it gets there. Plain functions on tensors.

Shape suffixes: V hosted ranks, T tokens of a rank (padded to the largest rank), K choices of a
token, E experts in reach, C slots an expert offers to one rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.gathers import invert_permutation


@dataclass(frozen=True)
class Routing:
    """Where every token goes, and its place among the tokens of each of its experts."""

    expert_ids_VTK: Tensor  # int64; -1: no such choice (padding, or given up by the policy)
    slots_VTK: Tensor  # int64; -1: dropped, or no such choice
    weights_VTK: Tensor  # what combine multiplies an expert's output with; 0 where slot is -1
    counts_VE: Tensor  # int64, choices of each expert before drops
    first_counts_VE: Tensor  # int64, of these the tokens' first choices
    num_tokens_V: Tensor  # int64, real tokens that could be routed
    capacity: int | None  # slots an expert offers to one rank; None: as many as it needs

    @property
    def num_choices(self) -> int:
        return self.expert_ids_VTK.shape[-1]


def assign_slots(
    expert_ids_VTK: Tensor, *, num_experts: int, priority_VT: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Number the tokens of every expert: first choices before second ones, then by priority.

    Args:
        expert_ids_VTK: chosen experts, -1 for no choice.
        num_experts: E, experts in reach.
        priority_VT: a permutation of 0..T-1 for each rank, low first; None: batch order.

    Returns:
        slots_VTK (int64, -1 for no choice), counts_VE, first_counts_VE (see `Routing`).
    """
    num_ranks, num_tokens, num_choices = expert_ids_VTK.shape
    device = expert_ids_VTK.device
    if priority_VT is None:
        priority_VT = torch.arange(num_tokens, device=device).expand(num_ranks, num_tokens)
    ids_VKT = expert_ids_VTK.transpose(1, 2)
    is_routed_VKT = ids_VKT >= 0
    choice_K1 = torch.arange(num_choices, device=device).unsqueeze(-1)
    # One int64 key carries (expert, choice, priority), so a single sort numbers every slot;
    # what is not routed sorts behind the last expert.
    expert_VKT = torch.where(is_routed_VKT, ids_VKT, num_experts)
    choice_VKT = expert_VKT * num_choices + choice_K1
    key_VKT = choice_VKT * num_tokens + priority_VT.unsqueeze(1)
    positions_VN = invert_permutation(key_VKT.flatten(1).argsort(dim=1, stable=True))

    counts_VEK = count_by_expert(choice_VKT.flatten(1), num_experts=num_experts * num_choices)
    counts_VEK = counts_VEK.view(num_ranks, num_experts, num_choices)
    counts_VE = counts_VEK.sum(-1)
    first_slots_VE = counts_VE.cumsum(1) - counts_VE
    starts_VN = torch.nn.functional.pad(first_slots_VE, (0, 1)).gather(1, expert_VKT.flatten(1))
    slots_VKT = (positions_VN - starts_VN).view_as(ids_VKT)
    slots_VTK = slots_VKT.masked_fill(~is_routed_VKT, -1).transpose(1, 2)
    return slots_VTK, counts_VE, counts_VEK[..., 0]


def count_by_expert(expert_ids_VN: Tensor, *, num_experts: int) -> Tensor:
    """How often each expert occurs in each row; ids of ``num_experts`` and above do not count."""
    counts = expert_ids_VN.new_zeros(expert_ids_VN.shape[0], num_experts + 1)
    ones = torch.ones_like(expert_ids_VN)
    return counts.scatter_add_(1, expert_ids_VN.clamp(max=num_experts), ones)[:, :num_experts]


def build_routing(
    expert_ids_VTK: Tensor,
    probs_VTK: Tensor,
    *,
    num_experts: int,
    capacity: int | None,
    normalize: str,
    priority_VT: Tensor | None = None,
) -> Routing:
    """Give every choice its slot and its weight.

    Args:
        probs_VTK: the gate's probabilities of the choices, those given up by the policy included.
        capacity: slots an expert offers to one rank; choices beyond it are dropped.
        normalize: "none" (Switch), "before" or "after" dropping (GShard's two variants).
    """
    slots_VTK, counts_VE, first_counts_VE = assign_slots(
        expert_ids_VTK, num_experts=num_experts, priority_VT=priority_VT
    )
    if capacity is not None:
        slots_VTK = slots_VTK.masked_fill(slots_VTK >= capacity, -1)
    survives_VTK = slots_VTK >= 0
    weights_VTK = probs_VTK
    if normalize == "before":
        weights_VTK = _divide_by_sum(weights_VTK)
    weights_VTK = weights_VTK.masked_fill(~survives_VTK, 0.0)
    if normalize == "after":
        weights_VTK = _divide_by_sum(weights_VTK)
    return Routing(
        expert_ids_VTK=expert_ids_VTK,
        slots_VTK=slots_VTK,
        weights_VTK=weights_VTK,
        counts_VE=counts_VE,
        first_counts_VE=first_counts_VE,
        num_tokens_V=first_counts_VE.sum(1),  # every token has a first choice
        capacity=capacity,
    )


def _divide_by_sum(weights_VTK: Tensor) -> Tensor:
    # The sum is 0 only where every choice was dropped; those weights stay 0.
    smallest = torch.finfo(weights_VTK.dtype).tiny
    return weights_VTK / weights_VTK.sum(dim=-1, keepdim=True).clamp(min=smallest)
