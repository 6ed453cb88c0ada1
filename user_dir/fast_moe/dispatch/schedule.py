"""The order in which a layer's trips take their steps, and its experts run.

Overlapped: the tokens that travel farthest leave first, the experts work on the near ones
meanwhile, and the far ones come last. The backward pass reverses this order (see `Line`), so that
far gradients leave first and near ones are computed meanwhile as well. Serial: one trip after the
other, or, where every reach has the same experts, these work once, on the rows of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from user_dir.fast_moe.dispatch.trip import Trip
from user_dir.fast_moe.exchange.all_to_all import Line


def run_trips(trips: Sequence[Trip], *, overlap: bool) -> list[Tensor]:
    """Send the tokens of every reach to their experts and bring the outputs home.

    Args:
        trips: nearest first; the same reaches on every process.
        overlap: compute while far tokens travel, if any leave the process. The values are the
            same, the sum of the gradients that flow back into shared tensors may be rounded
            differently.

    Returns:
        what each trip collects, (V, T, D).
    """
    line = Line()
    if len(trips) > 1 and overlap and any(trip.plan.group is not None for trip in trips):
        return _run_overlapped(trips, line)
    if len(trips) > 1 and _can_merge(trips):
        return _run_merged(trips, line)
    return [_run_alone(trip, line) for trip in trips]


def _run_alone(trip: Trip, line: Line) -> Tensor:
    trip.send(line)
    rows = trip.arrive(line)
    trip.answer(trip.experts(rows, trip.counts), line)
    return trip.collect(line)


def _run_overlapped(trips: Sequence[Trip], line: Line) -> list[Tensor]:
    for trip in reversed(trips):
        trip.send(line)
    for trip in trips:
        rows = trip.arrive(line)
        trip.answer(trip.experts(rows, trip.counts), line)
    return [trip.collect(line) for trip in trips]


def _can_merge(trips: Sequence[Trip]) -> bool:
    """Whether the same experts take all tokens, and all rows have one form."""
    same_experts = all(trip.experts is trips[0].experts for trip in trips)
    return same_experts and len({type(trip) for trip in trips}) == 1


def _run_merged(trips: Sequence[Trip], line: Line) -> list[Tensor]:
    """The experts multiply once, with more rows: closer to what the processor can do."""
    arrived = []
    for trip in trips:
        trip.send(line)
        arrived.append(trip.arrive(line))
    experts = trips[0].experts
    if trips[0].counts is None:
        outputs = experts(torch.cat(arrived, dim=1), None)
        parts = list(outputs.split([rows.shape[1] for rows in arrived], dim=1))
    else:
        parts = _run_ragged(experts, arrived, [_on_host(trip.counts) for trip in trips])
    for trip, part in zip(trips, parts, strict=True):
        trip.answer(part, line)
    return [trip.collect(line) for trip in trips]


def _run_ragged(experts, arrived: list[Tensor], counts: list[list[int]]) -> list[Tensor]:
    """The rows of every expert, trip by trip; and what belongs to each trip."""
    # Behind the experts' rows there may be some that nobody has.
    parts = [
        rows.split([*of_trip, rows.shape[0] - sum(of_trip)])
        for rows, of_trip in zip(arrived, counts, strict=True)
    ]
    sizes = [size for of_expert in zip(*counts, strict=True) for size in of_expert]
    by_expert = [part for of_expert in zip(*parts, strict=True) for part in of_expert]
    totals = [sum(of_expert) for of_expert in zip(*counts, strict=True)]
    outputs = experts(torch.cat(by_expert[: len(sizes)]), totals).split(sizes)
    num_trips = len(arrived)
    return [
        torch.cat([*outputs[index::num_trips], by_expert[len(sizes) + index]])
        for index in range(num_trips)
    ]


def _on_host(counts: list[int] | Tensor | None) -> list[int]:
    assert counts is not None
    # Host sync on a GPU; the counts of farther reaches were waited for anyway.
    return counts.tolist() if isinstance(counts, Tensor) else counts
