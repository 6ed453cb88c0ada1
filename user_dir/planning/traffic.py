"""What a mixture sends, and what its experts multiply: as its metrics count them.

Means over the ranks, of a forward pass. With capacities they are exact, for every slot travels;
exact counts (dropless, hierarchical, clusters) are those of tokens that are spread evenly over all
experts in reach, and of which none is dropped.
"""

from dataclasses import dataclass, replace
from math import comb

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.tokens.ranked import Sizes
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


def passes_of(setting: Setting, stack: Stack, kind: LayerKind) -> list[tuple[float, list[Trip]]]:
    """The trips of a mixture in an update, for each way that updates go and the share that do.

    With gating dropout no token leaves its rank in a share of them; clusters stay what they are.
    """
    gate = setting.config.gate
    share = 0.0 if kind is LayerKind.CLUSTER else gate.dropout
    found = [(1 - share, trips_of(setting, stack, kind))]
    if share:
        staying = [] if gate.dropout_skips else _staying(setting, stack, kind)
        found.append((share, staying))
    return found


def trips_of(setting: Setting, stack: Stack, kind: LayerKind) -> list[Trip]:
    """The trips of a mixture, nearest first."""
    tokens, hidden = setting.tokens, setting.expert_hidden_dim(stack)
    if kind is LayerKind.CLUSTER:
        return [_dropless(setting, Reach.GLOBAL, stack.dim, hidden, tokens, choices=1)]
    capacity = setting.capacity_of(stack)
    if kind is LayerKind.SEQ:
        shares = setting.seq_shares
        quotas = shares.quotas(tokens)
        return [
            _trip(setting, capacity, reach, stack.dim, hidden, quota=quotas[reach])
            for reach in shares.reaches()
        ]
    if kind is LayerKind.FEAT:
        features = setting.config.shares.features(stack.dim)
        return [
            _trip(setting, capacity, reach, features[reach], hidden)
            for reach in Reach
            if features[reach]
        ]
    ((width, hidden),) = expert_shapes(setting, stack, kind)
    return [_trip(setting, capacity, Reach.GLOBAL, width, hidden)]


def _staying(setting: Setting, stack: Stack, kind: LayerKind) -> list[Trip]:
    """Those of an update in which all tokens, or all their slices, stay on their rank."""
    capacity = setting.capacity_of(stack)
    return [
        _trip(setting, capacity, Reach.LOCAL, width, hidden)
        for width, hidden in expert_shapes(setting, stack, kind)
    ]


def _trip(
    setting: Setting,
    capacity: CapacityRule,
    reach: Reach,
    width: int,
    hidden: int,
    *,
    quota: int | None = None,
) -> Trip:
    """One trip of a layer with a gate.

    Args:
        quota: how many of a rank's tokens have that reach; None: all.
    """
    block, per_rank = setting.topology.block_of_reach(reach), setting.experts_per_rank
    num_experts, num_nodes = block * per_rank, setting.topology.nodes_in_reach
    tokens = setting.tokens if quota is None else quota
    slots = capacity.slots_in_reach(
        reach,
        Sizes((setting.tokens,), {reach: (tokens,)}, setting.tokens, {reach: tokens}),
        num_experts=num_experts,
        training=True,
        by_quota=quota is not None,
        any_number=setting.config.partition == "threshold",
        on_cpu=setting.device == "cpu",
    )
    choices = num_experts if capacity.by_expert else min(capacity.top_k, num_experts)
    if reach is Reach.GLOBAL and setting.config.exchange == "hierarchical" and num_nodes > 1:
        taken = slots if capacity.by_expert else None
        return _hierarchical(setting, width, hidden, tokens, choices, taken, num_nodes=num_nodes)
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
    setting: Setting,
    width: int,
    hidden: int,
    tokens: int,
    choices: int,
    taken: int | None,
    *,
    num_nodes: int,
) -> Trip:
    """Once to each node that holds an expert of the token, and on from there.

    Args:
        taken: tokens that every expert takes; None: tokens choose experts.
        num_nodes: that hold every expert once together.
    """
    num_experts = setting.config.num_experts
    per_node = num_experts // num_nodes
    if taken is None:
        rows = choices * tokens
        limit = setting.config.gate.limit_nodes or num_nodes
        share = _share_of_a_node(num_nodes, per_node, choices, limit=limit)
    else:
        rows = num_experts * taken
        # Experts choose by themselves.
        share = 1 - (1 - min(1.0, taken / max(1, tokens))) ** per_node
    row_bytes = setting.itemsize * (2 * width + choices) + _ID_BYTES * choices
    between = Leg.even(row_bytes, share * tokens, Peers(0, num_nodes - 1), ahead=_COUNT_BYTES)
    per_rank = setting.layout.ranks_per_node
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
