"""The cases that SCoMoE's laws are checked on; needs no fairseq."""

from argparse import Namespace
from dataclasses import dataclass, field

import torch
from torch import Tensor

from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.transformer.layer_order import order_layers

DIM, HIDDEN, NUM_KEYS = 32, 12, 20
PAD = 1
LENGTHS = ((5, 3, 7), (6, 5), (4, 4), (2, 9, 1))
RAGGED = ((5, 3, 7), (), (4, 4), (1,))


@dataclass(frozen=True)
class StackCase:
    """Options of a model, and the lengths of each rank's sentences."""

    name: str
    options: dict = field(default_factory=dict)
    layout: tuple[int, int] = (2, 2)
    lengths: tuple[tuple[int, ...], ...] = LENGTHS
    num_layers: int = 4
    stack: str = "encoder"
    training: bool = True
    with_noise: bool = False
    normalize_before: bool = True
    recompute: bool = False
    is_learned: bool = True  # whether what is learned without a gradient has been
    # What the case must show: shares of dropped choices, reaches in use.
    drops: bool = True
    reaches: tuple[str, ...] = ("local", "node", "global")

    def __str__(self) -> str:
        return self.name

    @property
    def config(self) -> MoeConfig:
        options = {"moe_freq": 2, "moe_expert_count": 8, "capacity_factor": 0.5, "seed": 3}
        options |= {"reorder_layers": True, "moe_second_expert_policy": "all"}
        return MoeConfig.from_args(Namespace(**{**options, **self.options}))

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        return order_layers(self.config, stack=self.stack, num_layers=self.num_layers).tail

    @property
    def tokens_of_rank(self) -> list[int]:
        return [sum(lengths) for lengths in self.lengths]

    @property
    def ids_of_rank(self) -> list[list[list[int]]]:
        """The token ids of each rank's sentences."""
        generator = torch.Generator().manual_seed(2)
        return [
            [torch.randint(2, NUM_KEYS, (n,), generator=generator).tolist() for n in lengths]
            for lengths in self.lengths
        ]

    @property
    def noise_key(self) -> NoiseKey | None:
        return NoiseKey(seed=3, update=5, micro_batch=1) if self.with_noise else None


SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
CLUSTER = {"token_cluster": True}
BOTTLENECK = {"scomoe_type": "bottleneck", "moe_exchange_dim": 16}
ONE_EXPERT = {"moe_expert_count": 4}
EIGHT_A_RANK = {"moe_expert_count": 32}
NOTHING_NEAR = {"ratio1": 0, "ratio2": 0}
QUOTA = {"scomoe_inference_partition": "quota"}
EVERYWHERE = {"scomoe_inference_partition": "everywhere"}
BY_THRESHOLD = {"scomoe_partition": "threshold"}
BY_TOKEN = {"token_cluster": True, "cluster_by": "token"}
BY_LANGUAGE = {"token_cluster": True, "cluster_by": "language"}
BY_CENTROID = {"token_cluster": True, "cluster_by": "kmeans", "cluster_warmup": 10}
SHARED = {"moe_shared_expert_ffn_dim": 20}
MASKS = {"moe_eom": 0.3, "moe_fom": 0.2}
BIAS = {"moe_balance": "bias"}
DROPOUT = {"moe_gating_dropout": 0.999}
BY_NODE = {"ratio1": 0}
HIERARCHICAL = {"moe_exchange": "hierarchical"}
BY_EXPERT = {"moe_expert_choice": True}
GLOBAL_ONLY = ("global",)
CASES = [
    StackCase("seq", SEQ),
    StackCase("seq, three layers", SEQ, num_layers=6),
    StackCase("seq, one expert a rank", {**SEQ, **ONE_EXPERT}),
    StackCase("seq, switch", {**SEQ, "moe_top1_expert": True}),
    StackCase("seq, switch, one expert", {**SEQ, **ONE_EXPERT, "moe_top1_expert": True}),
    StackCase("seq, dropless", {**SEQ, "capacity_factor": 0}, drops=False),
    StackCase("seq, all within nodes", {**SEQ, "ratio2": 0.8}, reaches=("local", "node")),
    StackCase("seq, nothing stays on its rank", {**SEQ, "ratio1": 0}, reaches=("node", "global")),
    StackCase("seq, all stay", {**SEQ, "ratio1": 1, "ratio2": 0}, reaches=("local",)),
    StackCase("seq, noise", {**SEQ, "moe_second_expert_policy": "sampling"}, with_noise=True),
    StackCase("seq, ragged", SEQ, lengths=RAGGED),
    StackCase("seq, one node", SEQ, layout=(1, 4), reaches=("local", "global")),
    StackCase("seq, one rank a node", SEQ, layout=(4, 1)),
    StackCase("seq, evaluation", {**SEQ, **QUOTA}, training=False, drops=False),
    StackCase(
        "seq, evaluation, everywhere",
        {**SEQ, **EVERYWHERE},
        training=False,
        drops=False,
        reaches=GLOBAL_ONLY,
    ),
    StackCase("seq, evaluation by threshold", SEQ, training=False, drops=False),
    StackCase(
        "seq, evaluation, no thresholds yet",
        SEQ,
        training=False,
        drops=False,
        is_learned=False,
        reaches=GLOBAL_ONLY,
    ),
    StackCase("seq, by threshold", {**SEQ, **BY_THRESHOLD}),
    StackCase("seq, by threshold, ragged", {**SEQ, **BY_THRESHOLD}, lengths=RAGGED),
    StackCase("seq, by threshold, recomputed", {**SEQ, **BY_THRESHOLD}, recompute=True),
    StackCase(
        "seq, by threshold, one node",
        {**SEQ, **BY_THRESHOLD},
        layout=(1, 4),
        reaches=("local", "global"),
    ),
    StackCase(
        "seq, by threshold, all within nodes",
        {**SEQ, **BY_THRESHOLD, "ratio2": 0.8},
        reaches=("local", "node"),
    ),
    StackCase("seq, no thresholds yet", {**SEQ, **BY_THRESHOLD}, is_learned=False),
    StackCase("cluster by token", {**BY_TOKEN, **SEQ}),
    StackCase("cluster by token, ragged", {**BY_TOKEN, **SEQ}, lengths=RAGGED),
    StackCase("cluster by token, a node", {**BY_TOKEN, **SEQ, **BY_NODE}, reaches=("node",)),
    StackCase(
        "cluster by token, by threshold, evaluation",
        {**BY_TOKEN, **SEQ},
        training=False,
        drops=False,
        stack="decoder",
    ),
    StackCase("cluster by language", {**BY_LANGUAGE, **FEAT}),
    StackCase("cluster by centroid", {**BY_CENTROID, **SEQ}),
    StackCase("cluster by centroid, not yet", {**BY_CENTROID, **SEQ}, is_learned=False),
    StackCase("cluster by centroid, a node", {**BY_CENTROID, **SEQ, **BY_NODE}, reaches=("node",)),
    StackCase(
        "cluster by centroid, evaluation", {**BY_CENTROID, **FEAT}, training=False, drops=False
    ),
    StackCase("seq, post-norm", SEQ, normalize_before=False),
    StackCase("seq, norm after", {**SEQ, "layernorm_after_moe_layer": True}),
    StackCase("seq, recomputed", SEQ, recompute=True),
    StackCase("seq, eight experts a rank", {**SEQ, **EIGHT_A_RANK}),
    StackCase(
        "seq, eight experts a rank, second ones given up",
        {**SEQ, **EIGHT_A_RANK, "moe_second_expert_policy": "random"},
        with_noise=True,
    ),
    StackCase("sigmoid", {"moe_gate": "sigmoid"}, reaches=GLOBAL_ONLY),
    StackCase("sigmoid, seq", {"moe_gate": "sigmoid", **SEQ}),
    StackCase("one node a token", {"moe_limit_nodes": 1}, reaches=GLOBAL_ONLY),
    StackCase(
        "two of four nodes a token, seq",
        {"moe_limit_nodes": 2, **SEQ},
        layout=(4, 1),
    ),
    StackCase("bias", BIAS, reaches=GLOBAL_ONLY),
    StackCase("bias, one node a token", {**BIAS, "moe_limit_nodes": 1}, reaches=GLOBAL_ONLY),
    StackCase("bias, sigmoid, seq", {**BIAS, "moe_gate": "sigmoid", **SEQ}),
    StackCase("bias, switch, feat", {**BIAS, "moe_top1_expert": True, **FEAT}),
    StackCase("shared expert", {"moe_shared_expert_ffn_dim": 20, **SEQ}),
    StackCase("shared expert, feat, ragged", {**FEAT, **SHARED}, lengths=RAGGED),
    StackCase("conditional routing", {"moe_cmr": True}, reaches=GLOBAL_ONLY),
    StackCase(
        "conditional routing, dropout, seq, cluster",
        {"moe_cmr": True, "moe_cmr_dropout": 0.3, **CLUSTER, **SEQ},
        with_noise=True,
    ),
    StackCase("masks", MASKS, with_noise=True, reaches=GLOBAL_ONLY),
    StackCase("masks, seq", {**MASKS, **SEQ}, with_noise=True),
    StackCase("masks, feat", {**MASKS, **FEAT}, with_noise=True),
    StackCase(
        "masks, switch", {**MASKS, "moe_top1_expert": True}, with_noise=True, reaches=("global",)
    ),
    StackCase("masks, evaluation", {**MASKS, **SEQ}, training=False, drops=False),
    StackCase("shares by distance", {"moe_topology_shares": "0.5,0.3,0.2"}, reaches=GLOBAL_ONLY),
    StackCase("dropout", DROPOUT, with_noise=True, drops=False, reaches=("local",)),
    StackCase("dropout, seq", {**DROPOUT, **SEQ}, with_noise=True, drops=False, reaches=("local",)),
    StackCase(
        "dropout, feat", {**DROPOUT, **FEAT}, with_noise=True, drops=False, reaches=("local",)
    ),
    StackCase("hierarchical", HIERARCHICAL, reaches=GLOBAL_ONLY),
    StackCase(
        "hierarchical, two nodes of four",
        {**HIERARCHICAL, **SEQ, "moe_expert_count": 16},
        layout=(2, 4),
        lengths=LENGTHS + RAGGED,
    ),
    StackCase(
        "hierarchical, four nodes of two",
        {**HIERARCHICAL, **EIGHT_A_RANK, "capacity_factor": 0},
        layout=(4, 2),
        lengths=LENGTHS + RAGGED,
        drops=False,
        reaches=GLOBAL_ONLY,
    ),
    StackCase(
        "hierarchical, two of four nodes a token, seq",
        {**HIERARCHICAL, "moe_limit_nodes": 2, **SEQ},
        layout=(4, 1),
    ),
    StackCase("hierarchical, seq, ragged", {**HIERARCHICAL, **SEQ}, lengths=RAGGED),
    StackCase("hierarchical, seq, recomputed", {**HIERARCHICAL, **SEQ}, recompute=True),
    StackCase(
        "hierarchical, seq, dropless", {**HIERARCHICAL, **SEQ, "capacity_factor": 0}, drops=False
    ),
    StackCase(
        "hierarchical, feat, switch, bias",
        {**HIERARCHICAL, **BIAS, **FEAT, "moe_top1_expert": True},
    ),
    StackCase("hierarchical, feat, masks", {**HIERARCHICAL, **MASKS, **FEAT}, with_noise=True),
    StackCase("hierarchical, bottleneck", {**HIERARCHICAL, **BOTTLENECK}, reaches=GLOBAL_ONLY),
    StackCase("hierarchical, cluster, seq", {**HIERARCHICAL, **CLUSTER, **SEQ}),
    StackCase("feat, eight experts a rank", {**FEAT, **EIGHT_A_RANK}),
    StackCase("feat", FEAT),
    StackCase("feat, one expert a rank", {**FEAT, **ONE_EXPERT}),
    StackCase("feat, projection", {**FEAT, "scomoe_feat_projection": True}),
    StackCase("feat, switch", {**FEAT, "moe_top1_expert": True}),
    StackCase("feat, dropless", {**FEAT, "capacity_factor": 0}, drops=False),
    StackCase("feat, no node", {**FEAT, "ratio2": 0}, reaches=("local", "global")),
    StackCase("feat, ragged", FEAT, lengths=RAGGED),
    StackCase("feat, one node", FEAT, layout=(1, 4)),
    StackCase("feat, one rank a node", FEAT, layout=(4, 1)),
    StackCase("feat, evaluation", FEAT, training=False, drops=False),
    StackCase("experts choose", BY_EXPERT, drops=False, reaches=GLOBAL_ONLY),
    StackCase("experts choose, seq", {**BY_EXPERT, **SEQ}, drops=False),
    StackCase("experts choose, seq, ragged", {**BY_EXPERT, **SEQ}, lengths=RAGGED, drops=False),
    StackCase(
        "experts choose, seq by threshold, recomputed",
        {**BY_EXPERT, **SEQ, **BY_THRESHOLD},
        recompute=True,
        drops=False,
    ),
    StackCase(
        "experts choose, seq, eight experts a rank, more than an even share",
        {**BY_EXPERT, **SEQ, **EIGHT_A_RANK, "capacity_factor": 1.7},
        drops=False,
    ),
    StackCase("experts choose, feat, ragged", {**BY_EXPERT, **FEAT}, lengths=RAGGED, drops=False),
    StackCase(
        "experts choose, feat, one expert a rank",
        {**BY_EXPERT, **FEAT, **ONE_EXPERT},
        drops=False,
    ),
    StackCase(
        "experts choose, sigmoid, cluster",
        {**BY_EXPERT, **CLUSTER, **SEQ, "moe_gate": "sigmoid"},
        drops=False,
    ),
    StackCase(
        "experts choose, switch, shared expert, seq",
        {**BY_EXPERT, **SEQ, **SHARED, "moe_top1_expert": True},
        drops=False,
    ),
    StackCase(
        "experts choose, masks", {**BY_EXPERT, **MASKS}, with_noise=True, drops=False, reaches=()
    ),
    StackCase(
        "experts choose, dropout, seq",
        {**BY_EXPERT, **DROPOUT, **SEQ},
        with_noise=True,
        drops=False,
        reaches=("local",),
    ),
    StackCase(
        "experts choose, hierarchical, seq",
        {**BY_EXPERT, **HIERARCHICAL, **SEQ},
        drops=False,
    ),
    StackCase(
        "experts choose, hierarchical, evaluation",
        {**BY_EXPERT, **HIERARCHICAL},
        training=False,
        drops=False,
        reaches=(),
    ),
    StackCase("experts choose, bottleneck", {**BY_EXPERT, **BOTTLENECK}, drops=False, reaches=()),
    StackCase("experts choose, evaluation", BY_EXPERT, training=False, drops=False, reaches=()),
    StackCase("experts choose, seq, evaluation", {**BY_EXPERT, **SEQ}, training=False, drops=False),
    StackCase(
        "experts choose, feat, evaluation", {**BY_EXPERT, **FEAT}, training=False, drops=False
    ),
    StackCase(
        "experts choose, evaluation, no thresholds yet",
        BY_EXPERT,
        training=False,
        drops=False,
        is_learned=False,
        reaches=(),
    ),
    StackCase("experts choose in the encoder alone", BY_EXPERT, stack="decoder", reaches=()),
    StackCase("bottleneck", BOTTLENECK, reaches=GLOBAL_ONLY),
    StackCase(
        "bottleneck, ragged, an eighth",
        {**BOTTLENECK, "moe_exchange_dim": 8},
        lengths=RAGGED,
        reaches=GLOBAL_ONLY,
    ),
    StackCase(
        "bottleneck, dropless", {**BOTTLENECK, "capacity_factor": 0}, drops=False, reaches=()
    ),
    StackCase(
        "bottleneck, switch, cluster, shared expert",
        {**BOTTLENECK, **CLUSTER, **SHARED, "moe_top1_expert": True},
        reaches=GLOBAL_ONLY,
    ),
    StackCase(
        "bottleneck, dropout", {**BOTTLENECK, **DROPOUT}, with_noise=True, drops=False, reaches=()
    ),
    StackCase("bottleneck, evaluation", BOTTLENECK, training=False, drops=False, reaches=()),
    StackCase("cluster alone", CLUSTER, num_layers=2, drops=False, reaches=()),
    StackCase("cluster, gshard", {**CLUSTER, "ratio1": 0.2}, reaches=GLOBAL_ONLY),
    StackCase("cluster by expert", CLUSTER, reaches=GLOBAL_ONLY),
    StackCase("cluster by node", {**CLUSTER, **SEQ, **NOTHING_NEAR}, reaches=GLOBAL_ONLY),
    StackCase("cluster, sigmoid", {**CLUSTER, "gate_type": "sigmoid"}, reaches=GLOBAL_ONLY),
    StackCase("cluster, decoder", {**CLUSTER, **SEQ}, stack="decoder"),
    StackCase("cluster, seq", {**CLUSTER, **SEQ, "temperature": 0.2}),
    StackCase("cluster by node, seq", {**CLUSTER, **SEQ, "ratio1": 0}, reaches=("node", "global")),
    StackCase("cluster, seq, one expert", {**CLUSTER, **SEQ, **ONE_EXPERT}),
    StackCase("cluster, seq, ragged", {**CLUSTER, **SEQ}, lengths=RAGGED),
    StackCase("cluster, seq, sigmoid", {**CLUSTER, **SEQ, "gate_type": "sigmoid"}),
    StackCase("cluster, seq, recomputed", {**CLUSTER, **SEQ}, recompute=True),
    StackCase("cluster, feat", {**CLUSTER, **FEAT}),
    StackCase("cluster, feat, switch", {**CLUSTER, **FEAT, "moe_top1_expert": True}),
    StackCase(
        "cluster, seq, one node", {**CLUSTER, **SEQ}, layout=(1, 4), reaches=("local", "global")
    ),
    StackCase("cluster, seq, one rank a node", {**CLUSTER, **SEQ}, layout=(4, 1)),
    StackCase("cluster, greedy", {**CLUSTER, **SEQ, **QUOTA}, training=False, drops=False),
    StackCase(
        "cluster by node, greedy",
        {**CLUSTER, **SEQ, **QUOTA, "ratio1": 0},
        training=False,
        drops=False,
        reaches=("node", "global"),
    ),
    StackCase(
        "cluster, balanced",
        {**CLUSTER, **SEQ, **QUOTA, "scomoe_inference_routing": "balanced"},
        training=False,
        drops=False,
    ),
    StackCase(
        "cluster, balanced by step",
        {**CLUSTER, **SEQ, **QUOTA, "scomoe_inference_routing": "balanced"},
        training=False,
        drops=False,
        stack="decoder",
    ),
]


def inputs_of(case: StackCase, seed: int = 11) -> list[Tensor]:
    """A (T, D) tensor for every rank."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        for count in case.tokens_of_rank
    ]
