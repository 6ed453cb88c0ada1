"""Dispatch with fixed capacity: rectangular buffers, no host synchronisation.

Shape suffixes: V hosted ranks, T tokens of a rank, K choices, E experts in reach, B ranks of a
block, n experts of a rank, C slots of an expert for one rank, S = E·C, L experts served here,
M rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.exchange.all_to_all import Exchange, Line, start_exchange
from user_dir.fast_moe.exchange.plan import ExchangePlan
from user_dir.fast_moe.gathers import gather_rows, weighted_sum
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class CapacityReturn:
    """What becomes of tokens sent by `send_slots`."""

    routing: Routing
    plan: ExchangePlan
    slot_NK: Tensor  # slot v·E·C + e·C + c of each choice of token v·T + t; -1: dropped
    token_M: Tensor  # token that fills each slot; -1: empty
    choice_M: Tensor  # which of the token's choices that is
    pair_bytes: int  # that one rank sends to another, there and back

    def sent_bytes(self) -> tuple[int, int, int]:
        """There and back: within ranks, within nodes, between nodes."""
        on_rank, in_node, between = (self.pair_bytes * n for n in self.plan.pairs_by_distance)
        return on_rank, in_node, between

    def at_experts(self, arrived_VBnCD: Tensor) -> tuple[Tensor, None]:
        """The rows of each expert, (L, M, D); they are equally many."""
        num_ranks, block, per_rank, capacity, dim = arrived_VBnCD.shape
        rows_LnMD = arrived_VBnCD.transpose(1, 2)
        return rows_LnMD.reshape(num_ranks * per_rank, block * capacity, dim), None

    def answer(self, outputs_LMD: Tensor, line: Line | None) -> Exchange:
        """Send the experts' outputs back."""
        num_ranks, num_experts = self.routing.counts_VE.shape
        capacity, block = self.routing.capacity, self.plan.block_size
        assert capacity is not None
        outputs = outputs_LMD.reshape(num_ranks, num_experts // block, block, capacity, -1)
        return start_exchange(outputs.transpose(1, 2).contiguous(), self.plan, line)

    def at_home(self, home_VBnCD: Tensor) -> Tensor:
        """Add up the outputs by weight, (V, T, D)."""
        home = home_VBnCD.view(-1, home_VBnCD.shape[-1])
        y = weighted_sum(
            home,
            self.routing.weights_VTK.flatten(0, 1).to(home.dtype),
            self.slot_NK,
            self.token_M,
            self.choice_M,
        )
        return y.view(home_VBnCD.shape[0], -1, y.shape[-1])


def send_slots(
    x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None
) -> tuple[Exchange, CapacityReturn]:
    """Send the tokens that got a slot; the exchange gives (V, B, n, C, D)."""
    num_ranks, num_tokens, dim = x_VTD.shape
    num_experts, capacity = routing.counts_VE.shape[1], routing.capacity
    assert capacity is not None
    per_rank = num_experts // plan.block_size
    element_VS = _element_of_slot(routing)
    token_VS = torch.where(element_VS >= 0, element_VS % max(1, num_tokens), -1)
    back = CapacityReturn(
        routing=routing,
        plan=plan,
        slot_NK=_flat_rows(_slot_of_choice(routing), num_experts * capacity).flatten(0, 1),
        token_M=_flat_rows(token_VS, num_tokens).flatten(),
        choice_M=element_VS.clamp(min=0).flatten() // max(1, num_tokens),
        pair_bytes=2 * per_rank * capacity * dim * x_VTD.element_size(),
    )
    buffers = gather_rows(x_VTD.flatten(0, 1), back.token_M, back.slot_NK)
    buffers = buffers.view(num_ranks, plan.block_size, per_rank, capacity, dim)
    return start_exchange(buffers, plan, line), back


def _element_of_slot(routing: Routing) -> Tensor:
    """The element k·T + t in each slot, (V, E·C); -1 where the slot is empty."""
    num_ranks, num_experts = routing.counts_VE.shape
    capacity = routing.capacity
    assert capacity is not None
    device = routing.counts_VE.device
    slot_C = torch.arange(capacity, device=device)
    starts_VE = routing.counts_VE.cumsum(1) - routing.counts_VE
    places_VEC = starts_VE.unsqueeze(-1) + slot_C
    is_filled_VEC = slot_C < routing.counts_VE.unsqueeze(-1)
    num_elements = routing.sorted_elements_VN.shape[1]
    if num_elements == 0:
        return torch.full((num_ranks, num_experts * capacity), -1, device=device)
    places_VS = places_VEC.clamp(max=num_elements - 1).flatten(1)
    elements_VS = routing.sorted_elements_VN.gather(1, places_VS)
    return elements_VS.masked_fill(~is_filled_VEC.flatten(1), -1)


def _slot_of_choice(routing: Routing) -> Tensor:
    """The slot e·C + c of each choice, (V, T, K); -1 where it was dropped."""
    assert routing.capacity is not None
    slots_VTK = routing.expert_ids_VTK * routing.capacity + routing.slots_VTK
    return slots_VTK.masked_fill(routing.slots_VTK < 0, -1)


def _flat_rows(index_VN: Tensor, rows_per_rank: int) -> Tensor:
    """Indices within a rank as indices into the ranks' tensors laid end to end; -1 stays."""
    first = torch.arange(index_VN.shape[0], device=index_VN.device) * rows_per_rank
    first = first.view(-1, *[1] * (index_VN.dim() - 1))
    return torch.where(index_VN >= 0, index_VN + first, -1)
