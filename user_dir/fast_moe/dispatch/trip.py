"""The tokens of one reach on their way to the experts and back, in four steps.

Tokens move by index: forward and backward passes are gathers, so they are deterministic, and
nothing of size tokens x experts x capacity is ever built.

Shape suffixes: V hosted ranks, T tokens of a rank, K choices, E experts in reach, L experts served
here, M rows, N = V·T, D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.exchange.all_to_all import Exchange, Line
from user_dir.fast_moe.exchange.plan import ChunkOrders, ExchangePlan
from user_dir.fast_moe.gathers import gather_rows, weighted_sum
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class RowLayout:
    """The rows that leave: where each chunk of them begins, and how many they are."""

    start_VE: Tensor  # the first row of what each rank has for each expert
    num_rows: int
    exchange: Exchange  # which brings them to the experts


class Trip(ABC):
    """Send the routed tokens of one reach, let the experts work, collect what they answer.

    Every process must take the steps of all its trips in the same order. Those that start, `send`
    and `answer`, communicate without waiting, but for the counts of dropless rows, which travel
    ahead and are waited for; those that finish, `arrive` and `collect`, wait.

    Args:
        x_VTD: the tokens; (V, T, D).
        routing: of the experts in reach, which lie, in order, on the ranks of the sender's block.
        plan: who is in reach.
        experts: what works on them, called with rows and `counts`.
    """

    # Rows of each expert served here, on the host, or on a device where that must not wait for
    # them; None: equally many.
    counts: list[int] | Tensor | None = None

    def __init__(self, x_VTD: Tensor, routing: Routing, plan: ExchangePlan, experts: nn.Module):
        self.x_VTD, self.routing, self.plan, self.experts = x_VTD, routing, plan, experts
        self.per_rank = routing.counts_VE.shape[1] // plan.block_size

    def send(self, line: Line) -> None:
        """The tokens leave; a rank's choices of one expert lie in the order of their slots."""
        layout = self._lay_out()
        self._there, self._back = layout.exchange, layout.exchange.reversed()
        num_choices = self.routing.num_choices
        self._row_NK = self._row_of_choice(layout).flatten(0, 1)
        # The inverse: the choice n·K + k in each row; what has no row is written behind the last.
        row_C = torch.where(self._row_NK >= 0, self._row_NK, layout.num_rows).flatten()
        choice_M = row_C.new_full((layout.num_rows + 1,), -1)
        choice_M.scatter_(0, row_C, torch.arange(row_C.shape[0], device=row_C.device))
        choice_M = choice_M[:-1]
        self._token_M = choice_M.div(num_choices, rounding_mode="floor")
        self._choice_M = choice_M % num_choices
        rows_MD = gather_rows(self.x_VTD.flatten(0, 1), self._token_M, self._row_NK)
        self._there.start(rows_MD, line)

    def arrive(self, line: Line) -> Tensor:
        """The rows that the experts of this process are to work on: (L, M, D), or (M, D) by
        expert where there are `counts`."""
        return self._there.finish(line)

    def answer(self, outputs: Tensor, line: Line) -> None:
        """The experts' outputs leave, shaped like what `arrive` gave."""
        self._back.start(outputs, line)

    def collect(self, line: Line) -> Tensor:
        """The outputs of each token, added up by weight, (V, T, D); 0 for tokens without expert."""
        home_MD = self._back.finish(line)
        y_ND = weighted_sum(
            home_MD,
            self.routing.weights_VTK.flatten(0, 1).to(home_MD.dtype),
            self._row_NK,
            self._token_M,
            self._choice_M,
        )
        return y_ND.view(*self.x_VTD.shape[:2], -1)

    @property
    def orders(self) -> ChunkOrders:
        """How chunks leave and arrive."""
        return self.plan.orders(self.per_rank, self.x_VTD.device)

    @property
    def row_bytes(self) -> int:
        """Of one token."""
        return self.x_VTD.element_size() * self.x_VTD.shape[-1]

    @abstractmethod
    def _lay_out(self) -> RowLayout:
        """Decide where rows lie. Communicates where it says so."""

    @abstractmethod
    def sent_bytes(self) -> tuple[int, int, int]:
        """There and back: within ranks, within nodes, between nodes."""

    def _row_of_choice(self, layout: RowLayout) -> Tensor:
        """The row of each choice, (V, T, K); -1 where it was dropped."""
        routing = self.routing
        ids_VN = routing.expert_ids_VTK.clamp(min=0).flatten(1)
        start_VTK = layout.start_VE.gather(1, ids_VN).view_as(routing.expert_ids_VTK)
        return torch.where(routing.slots_VTK >= 0, start_VTK + routing.slots_VTK, -1)
