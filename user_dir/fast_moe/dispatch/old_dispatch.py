"""Bring tokens to the experts they were routed to, and the experts' outputs back.

Tokens are moved by index: forward and backward passes are gathers, so they are deterministic
and nothing of size tokens x experts x capacity is ever built.

Shape suffixes: V hosted ranks, T tokens of a rank, L experts served here, M rows, D width.
"""

from dataclasses import dataclass

from torch import Tensor

from user_dir.fast_moe.dispatch.capacity import CapacityReturn, send_slots
from user_dir.fast_moe.dispatch.dropless import DroplessReturn, send_counts
from user_dir.fast_moe.exchange.all_to_all import Exchange, Line
from user_dir.fast_moe.exchange.plan import ExchangePlan
from user_dir.fast_moe.routing.slots import Routing

Return = CapacityReturn | DroplessReturn  # what combine needs after a dispatch


@dataclass(frozen=True)
class ExpertInput:
    """What the experts of this process work on."""

    rows: Tensor  # (L, M, D); or (M, D) grouped by expert, where counts are given
    counts: list[int] | None


@dataclass(frozen=True)
class Outbound:
    """Tokens on their way to the experts."""

    exchange: Exchange
    back: Return


@dataclass(frozen=True)
class Homebound:
    """The experts' outputs on their way back."""

    exchange: Exchange
    back: Return


def dispatch(x_VTD: Tensor, routing: Routing, plan: ExchangePlan) -> tuple[ExpertInput, Return]:
    """Send every routed token to its experts and wait for those that arrive here.

    Args:
        plan: who is in reach; experts 0 … E-1 of the routing lie, in order, on the ranks of the
            block of the sender.
    """
    outbound = send(x_VTD, routing, plan)
    return receive(outbound), outbound.back


def combine(outputs: Tensor, back: Return) -> Tensor:
    """Bring the experts' outputs home and add them up by weight; 0 for tokens without expert.

    Args:
        outputs: shaped like the rows that dispatch gave.

    Returns:
        (V, T, D).
    """
    return collect(answer(outputs, back))


def send(x_VTD: Tensor, routing: Routing, plan: ExchangePlan, line: Line | None = None) -> Outbound:
    """The first half of `dispatch`: the tokens leave."""
    send_tokens = send_counts if routing.capacity is None else send_slots
    return Outbound(*send_tokens(x_VTD, routing, plan, line))


def receive(outbound: Outbound, line: Line | None = None) -> ExpertInput:
    """The second half of `dispatch`: the tokens arrive at the experts."""
    return ExpertInput(*outbound.back.at_experts(outbound.exchange.finish(line)))


def answer(outputs: Tensor, back: Return, line: Line | None = None) -> Homebound:
    """The first half of `combine`: the outputs leave."""
    return Homebound(back.answer(outputs, line), back)


def collect(homebound: Homebound, line: Line | None = None) -> Tensor:
    """The second half of `combine`: the outputs arrive and are added up."""
    return homebound.back.at_home(homebound.exchange.finish(line))
