"""Trips on which a token goes to each node once, and is passed on to its experts there.

What DeepEP, HierMoE (Lin et al., 2025) and the hybrid dispatcher of Megatron do. Shape suffixes:
V hosted ranks, T tokens of a rank, K choices, U tokens that came to a rank (the most of any hosted
one), M rows, D width, W = D + K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.dispatch.dropless import DroplessTrip
from user_dir.fast_moe.dispatch.trip import Trip
from user_dir.fast_moe.exchange.all_to_all import Line
from user_dir.fast_moe.exchange.plan import ExchangePlan
from user_dir.fast_moe.gathers import gather_rows
from user_dir.fast_moe.routing.slots import Routing, build_routing


class HierarchicalTrip(Trip):
    """Between nodes, then inside them; outputs are added up in the experts' node and return once.

    A token goes to the rank with its sender's place in the node, and takes its weights along: they
    are applied there, and their gradients come back with the token's. Exact counts travel whatever
    the capacity, for choices that were dropped stay at home.

    Args:
        x_VTD: the tokens; (V, T, D).
        routing: of the experts in reach, which lie, in order, on the nodes in reach.
        between: the ranks with one place in these nodes.
        within: the ranks of a node.
        experts: what works on the rows, called with them and `counts`.
    """

    def __init__(
        self,
        x_VTD: Tensor,
        routing: Routing,
        experts: nn.Module,
        *,
        between: ExchangePlan,
        within: ExchangePlan,
    ):
        super().__init__(between, experts)
        self.within = within
        self.dim, self.num_choices = x_VTD.shape[-1], routing.num_choices
        self.per_node = routing.counts_VE.shape[1] // between.block_size
        is_kept_VTK = routing.slots_VTK >= 0
        # 32 bits: what goes between nodes is to be small.
        self._expert_VTK = torch.where(is_kept_VTK, routing.expert_ids_VTK, -1).int()
        rows_VTW = torch.cat([x_VTD, routing.weights_VTK.to(x_VTD.dtype)], dim=-1)
        by_node = route_to_nodes(self._expert_VTK, between.block_size, per_node=self.per_node)
        self._to_nodes = DroplessTrip(rows_VTW, by_node, between, experts)

    def send(self, line: Line) -> None:
        self._to_nodes.send(line)
        self._experts_on_way = self._to_nodes.bring_along(self._expert_VTK)

    def arrive(self, line: Line) -> Tensor:
        """What came from other nodes is passed on first, its counts ahead of it."""
        rows_MW = self._to_nodes.arrive(line)
        counts = self._to_nodes.counts
        assert isinstance(counts, list)  # of the hosted ranks
        self._places = RowPlaces.of(counts, rows_MW.device)
        x_VUD, weights_VUK = self._places.by_rank(rows_MW).split(
            [self.dim, self.num_choices], dim=-1
        )
        expert_MK = self._experts_on_way.wait()
        expert_VUK = self._places.by_rank(expert_MK + 1) - 1  # where there is no row, none
        node_V = self.plan.own_places(rows_MW.device)
        routing = route_in_node(expert_VUK, weights_VUK, node_V, per_node=self.per_node)
        self._in_node = DroplessTrip(x_VUD, routing, self.within, self.experts)
        self._in_node.send(line)
        rows_MD = self._in_node.arrive(line)
        self.counts = self._in_node.counts
        return rows_MD

    def answer(self, outputs: Tensor, line: Line) -> None:
        """The outputs are added up in their node, and leave it."""
        self._in_node.answer(outputs, line)
        y_VUD = self._in_node.collect(line)
        self._to_nodes.answer(self._places.in_a_row(y_VUD), line)

    def collect(self, line: Line) -> Tensor:
        return self._to_nodes.collect(line)

    def sent_bytes(self) -> tuple[int, int, int]:
        """Without those of tokens on the way to their own rank's place in their own node."""
        size = self._to_nodes.x_VTD.element_size()
        of_row = size * (2 * self.dim + self.num_choices)
        of_row += self._expert_VTK.element_size() * self.num_choices
        _, _, between = self._to_nodes.bytes_of_rows(of_row)
        on_rank, in_node, _ = self._in_node.sent_bytes()
        return on_rank, in_node, between


def route_to_nodes(expert_VTK: Tensor, num_nodes: int, *, per_node: int) -> Routing:
    """The nodes of each token, every one once: the choice that names it first stands for all.

    Args:
        expert_VTK: experts in reach, -1: none.
    """
    node_VTK = expert_VTK.long().div(per_node, rounding_mode="floor")  # -1 stays -1
    is_same_VTKK = node_VTK.unsqueeze(-1) == node_VTK.unsqueeze(-2)
    node_VTK = node_VTK.masked_fill(is_same_VTKK.tril(-1).any(-1), -1)
    ones_VTK = torch.ones(node_VTK.shape, device=node_VTK.device)
    return build_routing(node_VTK, ones_VTK, num_experts=num_nodes, capacity=None, normalize="none")


def route_in_node(
    expert_VUK: Tensor, weights_VUK: Tensor, node_V: Tensor, *, per_node: int
) -> Routing:
    """Of the choices of tokens that came to a node, those there.

    Args:
        expert_VUK: experts in reach, -1: none.
        node_V: the place of each hosted rank's node among those in reach.
    """
    expert_VUK = expert_VUK.long() - node_V.view(-1, 1, 1) * per_node
    is_here_VUK = (expert_VUK >= 0) & (expert_VUK < per_node)
    return build_routing(
        expert_VUK.masked_fill(~is_here_VUK, -1),
        weights_VUK,
        num_experts=per_node,
        capacity=None,
        normalize="none",
    )


@dataclass(frozen=True)
class RowPlaces:
    """Rows that lie hosted rank by hosted rank, and their places where ranks have equally many."""

    row_VU: Tensor | None  # -1: none; None: there is one rank
    place_M: Tensor | None

    @staticmethod
    def of(counts: list[int], device: torch.device) -> "RowPlaces":
        if len(counts) == 1:
            return RowPlaces(None, None)
        is_there_VU = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(-1)
        row_VU = is_there_VU.new_full(is_there_VU.shape, -1, dtype=torch.int64)
        row_VU[is_there_VU] = torch.arange(sum(counts))
        place_M = is_there_VU.flatten().nonzero().squeeze(-1)
        return RowPlaces(row_VU.to(device), place_M.to(device))

    def by_rank(self, rows_MW: Tensor) -> Tensor:
        """(V, U, W); 0 where a rank has fewer."""
        if self.row_VU is None or self.place_M is None:
            return rows_MW.unsqueeze(0)
        rows = gather_rows(rows_MW, self.row_VU.flatten(), self.place_M.unsqueeze(-1))
        return rows.view(*self.row_VU.shape, rows.shape[-1])

    def in_a_row(self, rows_VUW: Tensor) -> Tensor:
        """The inverse, (M, W)."""
        rows = rows_VUW.flatten(0, 1)
        if self.row_VU is None or self.place_M is None:
            return rows
        return gather_rows(rows, self.place_M, self.row_VU.flatten().unsqueeze(-1))
