"""What one forward and backward pass of a MoE layer sends, counted on the tensors and computed."""

from argparse import Namespace
from collections import Counter
from fractions import Fraction

import torch
import torch.distributed as dist
from torch import Tensor

from user_dir.fast_moe.build import ExpertSizes, MoeParts, build_moe_layer
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.gating.gates import InReach
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import KnownSums
from user_dir.fast_moe.tokens.ranked import RankedTokens, agree_on_sizes, quotas_on_device

NODES, RANKS_PER_NODE, NUM_EXPERTS = 2, 2, 8
NUM_RANKS, PER_RANK = NODES * RANKS_PER_NODE, NUM_EXPERTS // 4
TOKENS, DIM = 1024, 128
VARIANTS = {
    "gshard": (LayerKind.PLAIN, {}),
    "seq": (LayerKind.SEQ, {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}),
    "feat": (LayerKind.FEAT, {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}),
    "bottleneck": (LayerKind.BOTTLENECK, {"scomoe_type": "bottleneck", "moe_exchange_dim": 32}),
}
# What these send depends on the choices of the gate: see `hierarchical_bytes`.
HIERARCHICAL = {
    "hierarchical": (LayerKind.PLAIN, {"moe_exchange": "hierarchical"}),
    "hierarchical, one node a token": (
        LayerKind.PLAIN,
        {"moe_exchange": "hierarchical", "moe_limit_nodes": 1, "capacity_factor": 0.0},
    ),
}


def make_layer(variant: str):
    """The layer of a variant on the processes that run, and its topology."""
    kind, options = {**VARIANTS, **HIERARCHICAL}[variant]
    options = {"moe_freq": 2, "moe_expert_count": NUM_EXPERTS, "capacity_factor": 1.0, **options}
    config = MoeConfig.from_args(Namespace(**options))
    topology = Topology(Layout(NODES, RANKS_PER_NODE), num_experts=NUM_EXPERTS)
    torch.manual_seed(1)
    parts = MoeParts(config=config, topology=topology)
    return build_moe_layer(parts, ExpertSizes(DIM, 32), kind=kind, name="encoder.1"), parts


def make_tokens(parts: MoeParts) -> RankedTokens:
    """All ranks have equally many tokens."""
    num_hosted = parts.topology.num_hosted
    sizes = agree_on_sizes((TOKENS,) * num_hosted, parts.seq_shares, device=torch.device("cpu"))
    is_pad_VT = torch.zeros(num_hosted, TOKENS, dtype=torch.bool)
    return RankedTokens(
        is_pad_VT=is_pad_VT,
        quotas_VR=quotas_on_device(sizes, is_pad_VT.device),
        sizes=sizes,
        noise=None,
        is_reported=True,
    )


def step(layer, parts: MoeParts, tokens: RankedTokens) -> KnownSums:
    """One forward and backward pass."""
    x_VTD = torch.stack([inputs_of(rank) for rank in parts.topology.hosted_ranks])
    x_VTD.requires_grad_()
    y_VTD, report = layer(x_VTD, tokens)
    y_VTD.square().sum().backward()
    return report.known


def inputs_of(rank: int) -> Tensor:
    """(T, D)"""
    return torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(rank))


def count_step(variant: str) -> tuple[list[int], list[float]]:
    """Bytes of this process's tensors by distance: those handed to the group, those reported.

    The groups' are of the forward and the backward pass, the report is of the forward pass.
    """
    layer, parts = make_layer(variant)
    tokens = make_tokens(parts)
    sent: Counter = Counter()
    real = dist.isend

    def counting(tensor, *args, group, group_dst, **kwargs):
        peer = dist.get_global_rank(group, group_dst)
        sent[distance(dist.get_rank(), peer)] += tensor.nbytes
        return real(tensor, *args, group=group, group_dst=group_dst, **kwargs)

    dist.isend = counting
    try:
        sums = step(layer, parts, tokens)
    finally:
        dist.isend = real
    return [sent[d] for d in range(3)], [sums.bytes_rank, sums.bytes_node, sums.bytes_between]


def distance(sender: int, receiver: int) -> int:
    """0 within a rank, 1 within a node, 2 between nodes; one rank a process."""
    if sender == receiver:
        return 0
    return 1 if sender // RANKS_PER_NODE == receiver // RANKS_PER_NODE else 2


def expected_bytes(variant: str) -> tuple[int, int]:
    """By formula: what a rank sends within its node and between nodes, forward and backward."""
    _, options = VARIANTS[variant]
    peers_in_node, peers_outside = RANKS_PER_NODE - 1, NUM_RANKS - RANKS_PER_NODE
    if variant in ("gshard", "bottleneck"):
        dim = options.get("moe_exchange_dim", DIM)
        parts = [(PER_RANK * slots(TOKENS, NUM_EXPERTS) * dim, peers_in_node, peers_outside)]
    else:
        shares = Shares.of(options["ratio1"], options["ratio2"])
        in_node = NUM_EXPERTS // NODES
        if variant == "seq":
            local, node = (int(Fraction(share) * TOKENS) for share in (shares.local, shares.node))
            rest = TOKENS - local - node
            of_node, everywhere = slots(node, in_node) * DIM, slots(rest, NUM_EXPERTS) * DIM
        else:
            of_node = slots(TOKENS, in_node) * int(shares.node * DIM)
            everywhere = slots(TOKENS, NUM_EXPERTS) * int(shares.everywhere * DIM)
        parts = [
            (PER_RANK * of_node, peers_in_node, 0),
            (PER_RANK * everywhere, peers_in_node, peers_outside),
        ]
    floats = [sum(size * peers[i] for size, *peers in parts) for i in range(2)]
    # There and back, in the forward and in the backward pass.
    return 4 * 4 * floats[0], 4 * 4 * floats[1]


def hierarchical_bytes(variant: str, rank: int) -> tuple[list[int], list[int]]:
    """What a rank sends within its node and between nodes: forward, then backward.

    Counted token by token: a row for each of the other nodes that holds one of a token's experts,
    and for each of its choices of the rank's node, one to the expert's rank.
    """
    layer, _ = make_layer(variant)
    to_nodes = passed_on = 0
    for sender in range(NUM_RANKS):
        for experts in experts_of_tokens(layer, sender):
            nodes = {expert // PER_RANK // RANKS_PER_NODE for expert in experts}
            if sender == rank:
                to_nodes += len(nodes - {rank // RANKS_PER_NODE})
            if sender % RANKS_PER_NODE == rank % RANKS_PER_NODE:
                ranks = [expert // PER_RANK for expert in experts]
                passed_on += sum(distance(rank, other) == 1 for other in ranks)
    top_k, number = 2, 4
    # A row takes its token's weights along and, going forward, the numbers of its experts.
    rows = number * to_nodes * (2 * DIM + top_k)
    in_node = number * passed_on * 2 * DIM
    # Counts go ahead: one a node, one an expert.
    ahead = 8 * (RANKS_PER_NODE - 1) * PER_RANK, 8 * (NODES - 1)
    forward = [in_node + ahead[0], rows + number * to_nodes * top_k + ahead[1]]
    return forward, [in_node, rows]


def experts_of_tokens(layer, rank: int) -> list[list[int]]:
    """The experts of a rank's tokens, without those that dropped them."""
    x_1TD = inputs_of(rank).unsqueeze(0)
    capacity = layer.capacity.slots(TOKENS, NUM_EXPERTS, training=True)
    within = InReach(Reach.GLOBAL, torch.arange(NUM_EXPERTS).unsqueeze(0), num_nodes=NODES)
    is_pad_1T = torch.zeros(1, TOKENS, dtype=torch.bool)
    z_1TE = layer.gate.logits(x_1TD)
    routing = layer.gate.route(z_1TE, is_pad_1T, within, capacity=capacity).routing
    choices = zip(routing.expert_ids_VTK[0].tolist(), routing.slots_VTK[0].tolist(), strict=True)
    return [
        [expert for expert, slot in zip(experts, slots, strict=True) if slot >= 0]
        for experts, slots in choices
    ]


def slots(num_tokens: int, num_experts: int) -> int:
    """Top-2 capacity at factor 1."""
    return 2 * -(-num_tokens // num_experts)
