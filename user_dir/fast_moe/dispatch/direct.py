"""Trips on which every choice of a token is a row that goes straight to its expert.

Tokens move by index: forward and backward passes are gathers, so they are deterministic, and
nothing of size tokens x experts x capacity is ever built.

Shape suffixes: V hosted ranks, T tokens of a rank, K choices, E experts in reach, M rows, N = V·T,
D width.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.dispatch.trip import Trip
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


class DirectTrip(Trip):
    """One exchange there, one back.

    Args:
        x_VTD: the tokens; (V, T, D).
        routing: of the experts in reach, which lie, in order, on the ranks of the sender's block.
        plan: who is in reach.
        experts: what works on them, called with rows and `counts`.
    """

    def __init__(self, x_VTD: Tensor, routing: Routing, plan: ExchangePlan, experts: nn.Module):
        super().__init__(plan, experts)
        self.x_VTD, self.routing = x_VTD, routing
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
        return self._there.finish(line)

    def answer(self, outputs: Tensor, line: Line) -> None:
        self._back.start(outputs, line)

    def collect(self, line: Line) -> Tensor:
        home_MD = self._back.finish(line)
        y_ND = weighted_sum(
            home_MD,
            self.routing.weights_VTK.flatten(0, 1).to(home_MD.dtype),
            self._row_NK,
            self._token_M,
            self._choice_M,
        )
        return y_ND.view(*self.x_VTD.shape[:2], y_ND.shape[-1])

    def bring_along(self, values_VTK: Tensor) -> Exchange:
        """Let something of each token follow its row, without a gradient.

        Returns:
            what `Exchange.wait` of gives it, row by row.
        """
        exchange = self._there.again()
        exchange.post(values_VTK.flatten(0, 1)[self._token_M])
        return exchange

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

    def _row_of_choice(self, layout: RowLayout) -> Tensor:
        """The row of each choice, (V, T, K); -1 where it was dropped."""
        routing = self.routing
        ids_VN = routing.expert_ids_VTK.clamp(min=0).flatten(1)
        start_VTK = layout.start_VE.gather(1, ids_VN).view_as(routing.expert_ids_VTK)
        return torch.where(routing.slots_VTK >= 0, start_VTK + routing.slots_VTK, -1)
