"""Bring tokens to the experts they were routed to, and the experts' outputs back. Level 2.

Tokens are moved by index: forward and backward passes are gathers, so they are deterministic
and nothing of size tokens x experts x capacity is ever built.

Shape suffixes: V hosted ranks, T tokens of a rank, K choices, E experts in reach, B ranks of a
block, C slots of an expert for one rank, L experts served here, M rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.collectives import (
    Exchange,
    Line,
    exchange,
    start_exchange,
    start_exchange_rows,
)
from user_dir.fast_moe.exchange_plan import ExchangePlan
from user_dir.fast_moe.gathers import gather_rows, weighted_sum
from user_dir.fast_moe.routing import Routing, invert_permutation


@dataclass(frozen=True)
class ExpertInput:
    """What the experts of this process work on."""

    rows: Tensor  # (L, M, D); or (M, D) grouped by expert, where counts are given
    counts: list[int] | None


@dataclass(frozen=True)
class CapacityReturn:
    """What combine needs after a dispatch with fixed capacity."""

    routing: Routing
    plan: ExchangePlan
    token_VS: Tensor  # token that fills each slot (S = E·C); -1: empty
    sent_bytes: tuple[int, int, int]  # there and back: within ranks, within nodes, between nodes


@dataclass(frozen=True)
class DroplessReturn:
    """What combine needs after a dispatch of exact counts."""

    routing: Routing
    plan: ExchangePlan
    element_M: Tensor  # element v·K·T + k·T + t of each row sent
    by_expert_M: Tensor  # for each row in the experts' order, its place as received
    send_counts: list[int]
    receive_counts: list[int]
    expert_counts: list[int]  # rows of each expert served here
    sent_bytes: tuple[int, int, int]  # as above, the counts that travel ahead included


@dataclass(frozen=True)
class Outbound:
    """Tokens on their way to the experts."""

    exchange: Exchange
    back: CapacityReturn | DroplessReturn


@dataclass(frozen=True)
class Homebound:
    """The experts' outputs on their way back."""

    exchange: Exchange
    back: CapacityReturn | DroplessReturn


def dispatch(
    x_VTD: Tensor, routing: Routing, plan: ExchangePlan
) -> tuple[ExpertInput, CapacityReturn | DroplessReturn]:
    """Send every routed token to its experts and wait for those that arrive here.

    Args:
        plan: who is in reach; experts 0 … E-1 of the routing lie, in order, on the ranks of the
            block of the sender.
    """
    outbound = send(x_VTD, routing, plan)
    return receive(outbound), outbound.back


def combine(outputs: Tensor, back: CapacityReturn | DroplessReturn) -> Tensor:
    """Bring the experts' outputs home and add them up by weight; 0 for tokens without expert.

    Args:
        outputs: shaped like the rows that dispatch gave.

    Returns:
        (V, T, D).
    """
    return collect(answer(outputs, back))


def send(x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None = None) -> Outbound:
    """The first half of `dispatch`: the tokens leave."""
    if routing.capacity is None:
        return _send_counts(x_VTD, routing, plan, line)
    return _send_slots(x_VTD, routing, plan, line)


def receive(outbound: Outbound, line: Line | None = None) -> ExpertInput:
    """The second half of `dispatch`: the tokens arrive at the experts."""
    arrived = outbound.exchange.finish(line)
    if isinstance(outbound.back, CapacityReturn):
        return _receive_slots(arrived)
    return _receive_counts(arrived, outbound.back)


def answer(
    outputs: Tensor, back: CapacityReturn | DroplessReturn, line: Line | None = None
) -> Homebound:
    """The first half of `combine`: the outputs leave."""
    if isinstance(back, CapacityReturn):
        return Homebound(_answer_slots(outputs, back, line), back)
    return Homebound(_answer_counts(outputs, back, line), back)


def collect(homebound: Homebound, line: Line | None = None) -> Tensor:
    """The second half of `combine`: the outputs arrive and are added up."""
    home = homebound.exchange.finish(line)
    if isinstance(homebound.back, CapacityReturn):
        return _collect_slots(home, homebound.back)
    return _collect_counts(home, homebound.back)


def _sum_by_distance(bytes_VB: Tensor, plan: ExchangePlan) -> tuple[int, int, int]:
    """Bytes of all pairs that stay on their rank, stay in their node, leave it."""
    return tuple(int(bytes_VB[plan.distance == d].sum()) for d in range(3))  # type: ignore


# --- fixed capacity: rectangular buffers, no host synchronisation -----------------------------


def _send_slots(x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None) -> Outbound:
    num_ranks, num_tokens, dim = x_VTD.shape
    num_experts, capacity = routing.counts_VE.shape[1], routing.capacity
    assert capacity is not None
    token_VS = _token_of_slot(routing, num_tokens)
    slot_VTK = _slot_of_choice(routing)
    row_M = _flat_rows(token_VS, num_tokens).flatten()
    inverse = _flat_rows(slot_VTK, num_experts * capacity).flatten(0, 1)
    buffers = gather_rows(x_VTD.flatten(0, 1), row_M, inverse)
    block, per_rank = plan.block_size, num_experts // plan.block_size
    buffers = buffers.view(num_ranks, block, per_rank, capacity, dim)
    pair_bytes = 2 * buffers[0, 0].nbytes
    sent_bytes = _sum_by_distance(torch.full_like(plan.distance, pair_bytes), plan)
    back = CapacityReturn(routing=routing, plan=plan, token_VS=token_VS, sent_bytes=sent_bytes)
    return Outbound(start_exchange(buffers, plan, line), back)


def _receive_slots(arrived_VBnCD: Tensor) -> ExpertInput:
    num_ranks, block, per_rank, capacity, dim = arrived_VBnCD.shape
    rows_LMD = arrived_VBnCD.transpose(1, 2).reshape(num_ranks * per_rank, block * capacity, dim)
    return ExpertInput(rows=rows_LMD, counts=None)


def _answer_slots(outputs_LMD: Tensor, back: CapacityReturn, line: Line | None) -> Exchange:
    num_ranks, num_experts = back.routing.counts_VE.shape
    capacity, block = back.routing.capacity, back.plan.block_size
    assert capacity is not None
    outputs = outputs_LMD.view(num_ranks, num_experts // block, block, capacity, -1)
    return start_exchange(outputs.transpose(1, 2).contiguous(), back.plan, line)


def _collect_slots(home_VBnCD: Tensor, back: CapacityReturn) -> Tensor:
    routing = back.routing
    num_ranks, num_experts = routing.counts_VE.shape
    capacity = routing.capacity
    assert capacity is not None
    home = home_VBnCD.view(-1, home_VBnCD.shape[-1])
    slots_VTK = _flat_rows(_slot_of_choice(routing), num_experts * capacity)
    tokens_VS = _flat_rows(back.token_VS, routing.expert_ids_VTK.shape[1])
    choices_VS = _choice_of_slot(routing)
    y = weighted_sum(
        home,
        routing.weights_VTK.flatten(0, 1).to(home.dtype),
        slots_VTK.flatten(0, 1),
        tokens_VS.flatten(),
        choices_VS.flatten(),
    )
    return y.view(num_ranks, -1, y.shape[-1])


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


def _token_of_slot(routing: Routing, num_tokens: int) -> Tensor:
    elements_VS = _element_of_slot(routing)
    return torch.where(elements_VS >= 0, elements_VS % max(1, num_tokens), -1)


def _choice_of_slot(routing: Routing) -> Tensor:
    num_tokens = routing.expert_ids_VTK.shape[1]
    return _element_of_slot(routing).clamp(min=0) // max(1, num_tokens)


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


# --- dropless: exact counts travel -------------------------------------------------------------


def _send_counts(
    x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None
) -> Outbound:
    num_ranks, num_tokens, _ = x_VTD.shape
    block, per_rank = plan.block_size, routing.counts_VE.shape[1] // plan.block_size
    counts_VBn = routing.counts_VE.view(num_ranks, block, per_rank)
    received_VBn = exchange(counts_VBn, plan)
    # Host sync: split sizes live on the CPU, and exact counts are known on no other rank.
    sizes = torch.stack([counts_VBn, received_VBn]).cpu()
    sent_in_order = sizes[0].flatten(0, 1)[plan.send_order]
    received_in_order = sizes[1].flatten(0, 1)[plan.receive_order]
    send_counts = _split_sums(sent_in_order, plan.send_splits)
    receive_counts = _split_sums(received_in_order, plan.receive_splits)

    element_M = _elements_in_sending_order(routing, sizes[0], plan)
    num_choices = routing.num_choices
    tokens_M = _token_of_element(element_M, num_tokens, num_choices)
    inverse = _row_of_choice(element_M, x_VTD.shape[:2], num_choices)
    rows_MD = gather_rows(x_VTD.flatten(0, 1), tokens_M, inverse)
    by_expert_M = _expert_order(received_in_order, plan, per_rank).to(x_VTD.device)
    row_bytes = x_VTD.element_size() * x_VTD.shape[-1]
    pair_bytes_VB = 2 * row_bytes * sizes[0].sum(-1) + per_rank * counts_VBn.element_size()
    back = DroplessReturn(
        routing=routing,
        plan=plan,
        element_M=element_M,
        by_expert_M=by_expert_M,
        send_counts=send_counts,
        receive_counts=receive_counts,
        expert_counts=sizes[1].transpose(1, 2).flatten(0, 1).sum(dim=1).tolist(),
        sent_bytes=_sum_by_distance(pair_bytes_VB, plan),
    )
    exchange_rows = start_exchange_rows(
        rows_MD, plan, send_counts=send_counts, receive_counts=receive_counts, line=line
    )
    return Outbound(exchange_rows, back)


def _receive_counts(arrived_MD: Tensor, back: DroplessReturn) -> ExpertInput:
    by_expert_M = back.by_expert_M
    rows_MD = gather_rows(arrived_MD, by_expert_M, invert_permutation(by_expert_M).unsqueeze(-1))
    return ExpertInput(rows=rows_MD, counts=back.expert_counts)


def _answer_counts(outputs_MD: Tensor, back: DroplessReturn, line: Line | None) -> Exchange:
    arrived_order = invert_permutation(back.by_expert_M)
    arrived_MD = gather_rows(outputs_MD, arrived_order, back.by_expert_M.unsqueeze(-1))
    return start_exchange_rows(
        arrived_MD,
        back.plan,
        send_counts=back.receive_counts,
        receive_counts=back.send_counts,
        line=line,
    )


def _collect_counts(home_MD: Tensor, back: DroplessReturn) -> Tensor:
    routing = back.routing
    num_ranks, num_tokens, num_choices = routing.expert_ids_VTK.shape
    y = weighted_sum(
        home_MD,
        routing.weights_VTK.flatten(0, 1).to(home_MD.dtype),
        _row_of_choice(back.element_M, (num_ranks, num_tokens), num_choices),
        _token_of_element(back.element_M, num_tokens, num_choices),
        back.element_M // max(1, num_tokens) % num_choices,
    )
    return y.view(num_ranks, num_tokens, -1)


def _split_sums(counts_Pn: Tensor, splits: tuple[int, ...]) -> list[int]:
    return [int(part.sum()) for part in counts_Pn.split(list(splits))]


def _elements_in_sending_order(routing: Routing, counts_VBn: Tensor, plan: ExchangePlan) -> Tensor:
    """Elements v·K·T + k·T + t of all routed choices, grouped as they go on the wire."""
    num_ranks, num_elements = routing.sorted_elements_VN.shape
    lengths = counts_VBn.sum(-1)
    starts = lengths.cumsum(1) - lengths
    starts = starts + torch.arange(num_ranks).unsqueeze(-1) * num_elements
    order = plan.send_order
    places = concatenated_ranges(starts.flatten()[order], lengths.flatten()[order])
    places = places.to(routing.sorted_elements_VN.device)
    elements = routing.sorted_elements_VN.flatten().index_select(0, places)
    return elements + places // max(1, num_elements) * num_elements


def _expert_order(received_in_order: Tensor, plan: ExchangePlan, per_rank: int) -> Tensor:
    """The places of the arrived rows, listed expert by expert."""
    hosted = plan.receive_order // plan.block_size
    expert = hosted.unsqueeze(-1) * per_rank + torch.arange(per_rank)
    expert_of_row = expert.flatten().repeat_interleave(received_in_order.flatten())
    return expert_of_row.argsort(stable=True)


def concatenated_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start+1, … for each length, one after the other."""
    ends = lengths.cumsum(0)
    shift = (starts - (ends - lengths)).repeat_interleave(lengths)
    return shift + torch.arange(int(lengths.sum()), device=starts.device)


def _token_of_element(element_M: Tensor, num_tokens: int, num_choices: int) -> Tensor:
    per_rank = max(1, num_tokens * num_choices)
    return element_M // per_rank * num_tokens + element_M % max(1, num_tokens)


def _row_of_choice(element_M: Tensor, shape_VT: tuple[int, ...], num_choices: int) -> Tensor:
    """The row of each choice, (V·T, K); -1 where the choice was not sent."""
    num_ranks, num_tokens = shape_VT
    rows = element_M.new_full((num_ranks * num_choices * num_tokens,), -1)
    rows.scatter_(0, element_M, torch.arange(element_M.shape[0], device=element_M.device))
    return rows.view(num_ranks, num_choices, num_tokens).transpose(1, 2).reshape(-1, num_choices)
