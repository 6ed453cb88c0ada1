"""The order in which a layer's exchanges and its experts run. Level 2.

One reach after the other, or overlapped: the tokens that travel farthest leave first, the experts
work on the near ones meanwhile, and the far ones come last. The backward pass reverses this order,
so that far gradients leave first and near ones are computed meanwhile as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from user_dir.fast_moe.collectives import Line
from user_dir.fast_moe.dispatch import (
    Return,
    answer,
    collect,
    combine,
    dispatch,
    receive,
    send,
)
from user_dir.fast_moe.exchange_plan import ExchangePlan
from user_dir.fast_moe.routing import Routing


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
        overlap: compute while far tokens travel. The values are the same, the sum of the
            gradients that flow back into shared tensors may be rounded differently.
    """
    if overlap and len(trips) > 1:
        return _run_overlapped(trips)
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
