"""What a mixture sends, and what its experts multiply: as its metrics count them.

Means over the ranks, of a forward pass. With capacities they are exact, for every slot travels;
exact counts (dropless, hierarchical, clusters) are those of tokens that are spread evenly over all
experts in reach, and of which none is dropped.
"""

from dataclasses import dataclass, replace
from math import comb

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.processes import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.planning.parameters import expert_shapes
from user_dir.planning.setting import Setting, Stack

_COUNT_BYTES = 8  # of a number of rows that travels ahead of them
_ID_BYTES = 4  # of an expert's number that travels with a token


@dataclass(frozen=True)
class Peers:
    """The ranks that a rank swaps rows with, itself apart; a mean, for blocks may split nodes."""

    in_node: float
    between: float

    @staticmethod
    def of(layout: Layout, block: int) -> "Peers":
        """Those in blocks of consecutive ranks."""
        per_node = layout.ranks_per_node
        if block % per_node == 0:
            return Peers(per_node - 1, block - per_node)
        if per_node % block == 0:
            return Peers(block - 1, 0)
        near = 0
        for rank in range(layout.num_ranks):
            first, node = rank - rank % block, rank - rank % per_node
            near += min(first + block, node + per_node) - max(first, node) - 1
        in_node = near / layout.num_ranks
        return Peers(in_node, block - 1 - in_node)


@dataclass(frozen=True)
class Leg:
    """One all-to-all of a trip, there and back, of one rank."""

    on_rank: float  # bytes that stay,
    in_node: float  # go to other ranks of the node,
    between: float  # to other nodes
    peers: Peers
    counts_ahead: bool  # whether numbers of rows travel before the rows

    @staticmethod
    def even(row_bytes: float, rows: float, peers: Peers, *, ahead: float = 0.0) -> "Leg":
        """As many rows for every peer.

        Args:
            row_bytes: there and back.
            rows: for one peer.
            ahead: bytes of the counts for one peer.
        """
        of_pair = row_bytes * rows + ahead
        return Leg(of_pair, of_pair * peers.in_node, of_pair * peers.between, peers, ahead > 0)


@dataclass(frozen=True)
class Trip:
    """The tokens of one reach, or the features of one slice, to their experts and back."""

    reach: Reach
    width: int  # features of a row
    hidden: int  # of the experts
    rows: float  # that the experts of a rank multiply, empty slots included
    sent_rows: float  # that a rank sends, itself included
    tokens: float  # of a rank
    choices: int
    legs: tuple[Leg, ...]

    @property
    def num_bytes(self) -> tuple[float, float, float]:
        """On the rank, in the node, between nodes; there and back."""
        return (
            sum(leg.on_rank for leg in self.legs),
            sum(leg.in_node for leg in self.legs),
            sum(leg.between for leg in self.legs),
        )


def trips_of(setting: Setting, stack: Stack, kind: LayerKind) -> list[Trip]:
    """The trips of a mixture, nearest first."""
    tokens, hidden = setting.tokens, setting.expert_hidden_dim(stack)
    if kind is LayerKind.CLUSTER:
        return [_dropless(setting, Reach.GLOBAL, stack.dim, hidden, tokens, choices=1)]
    if kind is LayerKind.SEQ:
        shares = setting.seq_shares
        quotas = shares.quotas(tokens)
        return [
            _trip(setting, reach, stack.dim, hidden, quotas[reach], everybody=False)
            for reach in shares.reaches()
        ]
    if kind is LayerKind.FEAT:
        features = setting.config.shares.features(stack.dim)
        return [
            _trip(setting, reach, features[reach], hidden, tokens)
            for reach in Reach
            if features[reach]
        ]
    ((width, hidden),) = expert_shapes(setting, stack, kind)
    return [_trip(setting, Reach.GLOBAL, width, hidden, tokens)]


def _trip(
    setting: Setting, reach: Reach, width: int, hidden: int, tokens: int, *, everybody: bool = True
) -> Trip:
    """One trip of a layer that chooses experts by a gate.

    Args:
        everybody: all tokens of a rank have that reach.
    """
    block, per_rank = setting.topology.block_of_reach(reach), setting.experts_per_rank
    num_experts, num_nodes = block * per_rank, setting.topology.nodes_in_reach
    if reach is Reach.GLOBAL and setting.config.exchange == "hierarchical" and num_nodes > 1:
        return _hierarchical(setting, width, hidden, tokens, num_nodes=num_nodes)
    choices = min(setting.top_k, num_experts)
    slots = setting.config.capacity.slots(tokens, num_experts, training=True)
    if reach is Reach.LOCAL and slots is not None:
        capacity, on_cpu = setting.config.capacity, setting.device == "cpu"
        by_threshold = not everybody and setting.config.partition == "threshold"
        slots = None if by_threshold else capacity.slots_to_stay(tokens, num_experts, on_cpu=on_cpu)
    if slots is None:
        return _dropless(setting, reach, width, hidden, tokens, choices=choices)
    rows_of_pair = per_rank * slots
    peers = Peers.of(setting.layout, block)
    leg = Leg.even(2 * setting.itemsize * width, rows_of_pair, peers)
    rows = rows_of_pair * block
    return Trip(reach, width, hidden, rows, rows, tokens, choices, (leg,))


def _dropless(
    setting: Setting, reach: Reach, width: int, hidden: int, tokens: int, *, choices: int
) -> Trip:
    block, per_rank = setting.topology.block_of_reach(reach), setting.experts_per_rank
    ahead = 0 if reach is Reach.LOCAL else _COUNT_BYTES * per_rank
    rows = choices * tokens
    leg = Leg.even(
        2 * setting.itemsize * width, rows / block, Peers.of(setting.layout, block), ahead=ahead
    )
    return Trip(reach, width, hidden, rows, rows, tokens, choices, (leg,))


def _hierarchical(
    setting: Setting, width: int, hidden: int, tokens: int, *, num_nodes: int
) -> Trip:
    """Once to each node that holds an expert of the token, and on from there.

    Args:
        num_nodes: that hold every expert once together.
    """
    per_node = setting.config.num_experts // num_nodes
    choices = min(setting.top_k, setting.config.num_experts)
    share = _share_of_a_node(
        num_nodes, per_node, choices, limit=setting.config.gate.limit_nodes or num_nodes
    )
    row_bytes = setting.itemsize * (2 * width + choices) + _ID_BYTES * choices
    between = Leg.even(row_bytes, share * tokens, Peers(0, num_nodes - 1), ahead=_COUNT_BYTES)
    per_rank = setting.layout.ranks_per_node
    rows = choices * tokens
    within = Leg.even(
        2 * setting.itemsize * width,
        rows / per_rank,
        Peers(per_rank - 1, 0),
        ahead=_COUNT_BYTES * setting.experts_per_rank,
    )
    # A token that stays in its node travels nowhere before it is passed on.
    between = replace(between, on_rank=0.0)
    sent_rows = num_nodes * share * tokens + rows
    return Trip(Reach.GLOBAL, width, hidden, rows, sent_rows, tokens, choices, (between, within))


def _share_of_a_node(num_nodes: int, per_node: int, choices: int, *, limit: int) -> float:
    """The probability that one node holds one or more of a token's experts, drawn evenly.

    Args:
        limit: nodes that a token's experts are on at most. As many as there are choices, or more,
            hardly bind, since the best nodes are those of the best experts: taken as none.
    """
    if limit < choices:
        return limit / num_nodes
    num_experts = num_nodes * per_node
    return 1 - comb(num_experts - per_node, choices) / comb(num_experts, choices)
