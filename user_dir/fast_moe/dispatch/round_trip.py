"""The order in which a layer's exchanges and its experts run.

Overlapped: the tokens that travel farthest leave first, the experts work on the near ones
meanwhile, and the far ones come last. The backward pass reverses this order, so that far gradients
leave first and near ones are computed meanwhile as well. Serial: one exchange after the other, and
between them the experts, once for all tokens where every reach has the same experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.dispatch.old_dispatch import (
    ExpertInput,
    Return,
    answer,
    collect,
    combine,
    dispatch,
    receive,
    send,
)
from user_dir.fast_moe.exchange.all_to_all import Line
from user_dir.fast_moe.exchange.plan import ExchangePlan
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class Trip:
    """The routed tokens of one reach, and the experts that they go to."""

    x_VTD: Tensor
    routing: Routing
    plan: ExchangePlan
    experts: nn.Module


@dataclass(frozen=True)
class Returned:
    """The tokens of one reach after their experts, 0 where none took them."""

    y_VTD: Tensor
    back: Return


def run_trips(trips: Sequence[Trip], *, overlap: bool) -> list[Returned]:
    """Send the tokens of every reach to their experts and bring the outputs home.

    Args:
        trips: nearest first; the same reaches on every process.
        overlap: compute while far tokens travel, if any leave the process. The values are the
            same, the sum of the gradients that flow back into shared tensors may be rounded
            differently.
    """
    if len(trips) == 1:
        return [_run_alone(trips[0])]
    if overlap and any(trip.plan.group is not None for trip in trips):
        return _run_overlapped(trips)
    if _can_merge(trips):
        return _run_merged(trips)
    return [_run_alone(trip) for trip in trips]


def _run_alone(trip: Trip) -> Returned:
    batch, back = dispatch(trip.x_VTD, trip.routing, trip.plan)
    return Returned(combine(trip.experts(batch.rows, batch.counts), back), back)


def _run_overlapped(trips: Sequence[Trip]) -> list[Returned]:
    line = Line()
    outbound = [send(trip.x_VTD, trip.routing, trip.plan, line) for trip in reversed(trips)]
    homebound = []
    for trip, sent in zip(trips, reversed(outbound), strict=True):
        batch = receive(sent, line)
        homebound.append(answer(trip.experts(batch.rows, batch.counts), sent.back, line))
    return [Returned(collect(home, line), home.back) for home in homebound]


def _can_merge(trips: Sequence[Trip]) -> bool:
    """Whether the same experts take all tokens, and all batches have one form."""
    same_experts = all(trip.experts is trips[0].experts for trip in trips)
    return same_experts and len({trip.routing.capacity is None for trip in trips}) == 1


def _run_merged(trips: Sequence[Trip]) -> list[Returned]:
    """The experts multiply once, with more rows: closer to what the processor can do."""
    line = Line()
    batches, backs = [], []
    for trip in trips:
        sent = send(trip.x_VTD, trip.routing, trip.plan, line)
        batches.append(receive(sent, line))
        backs.append(sent.back)
    merged = _merge(batches)
    outputs = _divide(trips[0].experts(merged.rows, merged.counts), batches)
    return [
        Returned(collect(answer(of_trip, back, line), line), back)
        for of_trip, back in zip(outputs, backs, strict=True)
    ]


def _merge(batches: Sequence[ExpertInput]) -> ExpertInput:
    """The rows of every expert, batch by batch."""
    if batches[0].counts is None:
        return ExpertInput(torch.cat([batch.rows for batch in batches], dim=1), None)
    by_expert = zip(*(batch.rows.split(batch.counts) for batch in batches), strict=True)
    counts = [sum(of_expert) for of_expert in zip(*(b.counts for b in batches), strict=True)]
    return ExpertInput(torch.cat([rows for parts in by_expert for rows in parts]), counts)


def _divide(outputs: Tensor, batches: Sequence[ExpertInput]) -> list[Tensor]:
    """The inverse of `_merge`: what belongs to each batch."""
    if batches[0].counts is None:
        return list(outputs.split([batch.rows.shape[1] for batch in batches], dim=1))
    sizes = [size for parts in zip(*(b.counts for b in batches), strict=True) for size in parts]
    parts = outputs.split(sizes)
    return [torch.cat(parts[index :: len(batches)]) for index in range(len(batches))]
