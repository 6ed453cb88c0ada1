"""Dropless dispatch: as many rows travel as there are tokens for an expert.

Shape suffixes: V hosted ranks, T tokens of a rank, K choices, E experts in reach, B ranks of a
block, n experts of a rank, C slots of an expert for one rank, S = E·C, L experts served here,
M rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.exchange.all_to_all import Exchange, Line, exchange, start_exchange_rows
from user_dir.fast_moe.exchange.plan import ExchangePlan
from user_dir.fast_moe.gathers import gather_rows, invert_permutation, weighted_sum
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class Travel:
    """Which elements v·K·T + k·T + t leave in which order, and how many arrive."""

    element_M: Tensor
    counts_VBn: Tensor  # rows sent to each expert, on the CPU
    # For each row in the experts' order its place as received, and the inverse of that; None: rows
    # are received in the experts' order.
    by_expert_M: Tensor | None
    by_arrival_M: Tensor | None
    send_counts: list[int]
    receive_counts: list[int]
    expert_counts: list[int]  # rows of each expert served here


@dataclass(frozen=True)
class DroplessReturn:
    """What becomes of tokens sent by `send_counts`."""

    routing: Routing
    plan: ExchangePlan
    travel: Travel
    row_NK: Tensor  # row of each choice of token v·T + t; -1: not sent
    token_M: Tensor  # token of each row sent
    choice_M: Tensor  # which of the token's choices that is
    row_bytes: int

    def sent_bytes(self) -> tuple[int, int, int]:
        """There and back: within ranks, within nodes, between nodes; with the counts sent ahead."""
        counts_VBn = self.travel.counts_VBn
        ahead = counts_VBn.shape[-1] * counts_VBn.element_size()
        return self.plan.sum_by_distance(2 * self.row_bytes * counts_VBn.sum(-1) + ahead)

    def at_experts(self, arrived_MD: Tensor) -> tuple[Tensor, list[int]]:
        """The rows, (M, D), grouped by expert, and how many each has."""
        travel = self.travel
        rows_MD = _reorder(arrived_MD, travel.by_expert_M, travel.by_arrival_M)
        return rows_MD, travel.expert_counts

    def answer(self, outputs_MD: Tensor, line: Line | None) -> Exchange:
        """Send the experts' outputs back."""
        travel = self.travel
        return start_exchange_rows(
            _reorder(outputs_MD, travel.by_arrival_M, travel.by_expert_M),
            self.plan,
            send_counts=travel.receive_counts,
            receive_counts=travel.send_counts,
            line=line,
        )

    def at_home(self, home_MD: Tensor) -> Tensor:
        """Add up the outputs by weight, (V, T, D)."""
        num_ranks, num_tokens, _ = self.routing.expert_ids_VTK.shape
        y = weighted_sum(
            home_MD,
            self.routing.weights_VTK.flatten(0, 1).to(home_MD.dtype),
            self.row_NK,
            self.token_M,
            self.choice_M,
        )
        return y.view(num_ranks, num_tokens, -1)


def send_counts(
    x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None
) -> tuple[Exchange, DroplessReturn]:
    """Send every routed token; the exchange gives (M, D)."""
    travel = _travel_here(routing, plan) if plan.group is None else _travel_far(routing, plan)
    element_M, num_choices, num_tokens = travel.element_M, routing.num_choices, x_VTD.shape[1]
    back = DroplessReturn(
        routing=routing,
        plan=plan,
        travel=travel,
        row_NK=_row_of_choice(element_M, x_VTD.shape[:2], num_choices),
        token_M=_token_of_element(element_M, num_tokens, num_choices),
        choice_M=element_M // max(1, num_tokens) % num_choices,
        row_bytes=x_VTD.element_size() * x_VTD.shape[-1],
    )
    rows = start_exchange_rows(
        gather_rows(x_VTD.flatten(0, 1), back.token_M, back.row_NK),
        plan,
        send_counts=travel.send_counts,
        receive_counts=travel.receive_counts,
        line=line,
    )
    return rows, back


def _reorder(rows_MD: Tensor, order_M: Tensor | None, inverse_M: Tensor | None) -> Tensor:
    if order_M is None or inverse_M is None:
        return rows_MD
    return gather_rows(rows_MD, order_M, inverse_M.unsqueeze(-1))


def _travel_here(routing: Routing, plan: ExchangePlan) -> Travel:
    """Within one process rows can leave in the experts' order at once, and nothing is swapped."""
    num_ranks, num_experts = routing.counts_VE.shape
    block = plan.block_size
    # Host sync: exact counts decide the size of the rows.
    counts_VE = routing.counts_VE.cpu()
    counts_VBn = counts_VE.view(num_ranks, block, num_experts // block)
    # Of each block: receiving rank, its expert, sending rank.
    by_expert = counts_VBn.unflatten(0, (-1, block)).permute(0, 2, 3, 1)
    ranges = torch.arange(num_ranks * num_experts).view_as(counts_VBn)
    ranges = ranges.unflatten(0, (-1, block)).permute(0, 2, 3, 1).flatten()
    total = int(counts_VE.sum())
    return Travel(
        counts_VBn=counts_VBn,
        element_M=_elements_of_ranges(routing, counts_VBn.flatten(1), ranges),
        by_expert_M=None,
        by_arrival_M=None,
        send_counts=[total],
        receive_counts=[total],
        expert_counts=by_expert.sum(-1).flatten().tolist(),
    )


def _travel_far(routing: Routing, plan: ExchangePlan) -> Travel:
    num_ranks, num_experts = routing.counts_VE.shape
    block, per_rank = plan.block_size, num_experts // plan.block_size
    counts_VBn = routing.counts_VE.view(num_ranks, block, per_rank)
    received_VBn = exchange(counts_VBn, plan)
    # Host sync: split sizes live on the CPU, and exact counts are known on no other rank.
    sizes = torch.stack([counts_VBn, received_VBn]).cpu()
    sent_in_order = sizes[0].flatten(0, 1)[plan.send_order]
    received_in_order = sizes[1].flatten(0, 1)[plan.receive_order]
    by_expert_M = _expert_order(received_in_order, plan, per_rank).to(counts_VBn.device)
    return Travel(
        counts_VBn=sizes[0],
        element_M=_elements_of_ranges(routing, sizes[0].sum(-1), plan.send_order),
        by_expert_M=by_expert_M,
        by_arrival_M=invert_permutation(by_expert_M),
        send_counts=_split_sums(sent_in_order, plan.send_splits),
        receive_counts=_split_sums(received_in_order, plan.receive_splits),
        expert_counts=sizes[1].transpose(1, 2).flatten(0, 1).sum(dim=1).tolist(),
    )


def _split_sums(counts_Pn: Tensor, splits: tuple[int, ...]) -> list[int]:
    return [int(part.sum()) for part in counts_Pn.split(list(splits))]


def _elements_of_ranges(routing: Routing, lengths_VR: Tensor, order: Tensor) -> Tensor:
    """Elements v·K·T + k·T + t of all routed choices, in the order that their ranges are given.

    Args:
        lengths_VR: how each rank's sorted elements are cut into ranges, on the CPU.
    """
    num_ranks, num_elements = routing.sorted_elements_VN.shape
    starts_VR = lengths_VR.cumsum(1) - lengths_VR
    starts_VR = starts_VR + torch.arange(num_ranks).unsqueeze(-1) * num_elements
    places = _concatenated_ranges(starts_VR.flatten()[order], lengths_VR.flatten()[order])
    places = places.to(routing.sorted_elements_VN.device)
    elements = routing.sorted_elements_VN.flatten().index_select(0, places)
    return elements + places // max(1, num_elements) * num_elements


def _expert_order(received_in_order: Tensor, plan: ExchangePlan, per_rank: int) -> Tensor:
    """The places of the arrived rows, listed expert by expert."""
    hosted = plan.receive_order // plan.block_size
    expert = hosted.unsqueeze(-1) * per_rank + torch.arange(per_rank)
    expert_of_row = expert.flatten().repeat_interleave(received_in_order.flatten())
    return expert_of_row.argsort(stable=True)


def _concatenated_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
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
