"""The MoE options of a model, read once from fairseq's namespace and validated at once."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any

from user_dir.errors import UserError
from user_dir.fast_moe.choices import (
    CLUSTER_KEYS,
    EXCHANGE_SCHEDULES,
    EXCHANGES,
    EXPERT_BACKENDS,
    EXPERT_GRAD_RULES,
    GATE_TYPES,
    INFERENCE_PARTITIONS,
    INFERENCE_ROUTINGS,
    PARTITIONS,
    SCOMOE_TYPES,
)
from user_dir.fast_moe.gating.options import GateOptions, require
from user_dir.fast_moe.layout.reach import Shares
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.shared_options import SharedOptions

# Types that divide tokens or features by how far they may travel.
_DIVIDED = ("seq", "feat")
# α and β where they are not given: the paper's for Seq, the nearest powers of two for Feat.
_DEFAULT_RATIOS = {"none": (0.0, 0.0), "seq": (0.2, 0.5), "feat": (0.25, 0.5)}


class LayerKind(Enum):
    """What a mixture does with its tokens."""

    PLAIN = "plain"  # every token may go everywhere
    SEQ = "seq"  # SCoMoE-Seq: a share of the tokens stays on its rank, another in its node
    FEAT = "feat"  # SCoMoE-Feat: a share of every token's features does
    BOTTLENECK = "bottleneck"  # tokens travel with fewer features
    CLUSTER = "cluster"  # tokens move to the rank of their cluster


@dataclass(frozen=True)
class MoeConfig:
    """Every MoE option of a model. Raises `ValueError` that names the flag for a wrong value."""

    num_experts: int
    encoder_freq: int
    decoder_freq: int
    gate: GateOptions
    shared: SharedOptions
    capacity_factor: float
    eval_capacity_token_fraction: float
    normalize_expert_grad: str
    expert_ffn_dim: int | None
    expert_backend: str
    scomoe_type: str
    exchange_dim: int | None  # features that travel to a bottleneck's experts
    ratio1: float
    ratio2: float
    token_cluster: bool
    temperature: float
    gate_type: str
    reorder_layers: bool
    layernorm_after_moe: bool
    feat_projection: bool
    cluster_by: str
    cluster_table: str  # "random", "similar", or a file
    cluster_warmup: int
    cluster_groups: int | None  # as resolved when training started; None: not yet
    inference_routing: str
    partition: str
    inference_partition: str
    exchange: str
    exchange_schedule: str
    seed: int

    @staticmethod
    def from_args(args: Namespace) -> "MoeConfig":
        """Read the options; the only place that knows their names in the namespace."""
        read = _reader(args)
        freq = read("moe_freq", 0)
        scomoe_type = read("scomoe_type", "none")
        ratios = _DEFAULT_RATIOS.get(scomoe_type, (0.0, 0.0))
        return MoeConfig(
            num_experts=read("moe_expert_count", 0),
            encoder_freq=read("encoder_moe_freq", freq),
            decoder_freq=read("decoder_moe_freq", freq),
            gate=GateOptions.read(read),
            shared=SharedOptions.read(read),
            capacity_factor=read("capacity_factor", 1.0),
            eval_capacity_token_fraction=read("moe_eval_capacity_token_fraction", 0.0),
            normalize_expert_grad=read("moe_normalize_expert_grad", "world_size"),
            expert_ffn_dim=read("moe_expert_ffn_dim", None),
            expert_backend=read("moe_expert_backend", "auto"),
            scomoe_type=scomoe_type,
            exchange_dim=read("moe_exchange_dim", None),
            ratio1=read("ratio1", ratios[0]),
            ratio2=read("ratio2", ratios[1]),
            token_cluster=read("token_cluster", False),
            temperature=read("temperature", 0.5),
            gate_type=read("gate_type", "softmax"),
            reorder_layers=read("reorder_layers", False),
            layernorm_after_moe=read("layernorm_after_moe_layer", False),
            feat_projection=read("scomoe_feat_projection", False),
            cluster_by=read("cluster_by", "scores"),
            cluster_table=read("cluster_table", "random"),
            cluster_warmup=read("cluster_warmup", 100),
            cluster_groups=read("moe_cluster_groups", None),
            inference_routing=read("scomoe_inference_routing", "greedy"),
            partition=read("scomoe_partition", "quota"),
            inference_partition=read("scomoe_inference_partition", "threshold"),
            exchange=read("moe_exchange", "direct"),
            exchange_schedule=read("moe_exchange_schedule", "overlap"),
            seed=read("seed", 1),
        )

    def __post_init__(self) -> None:
        for flag, freq in (
            ("--encoder-moe-freq", self.encoder_freq),
            ("--decoder-moe-freq", self.decoder_freq),
        ):
            require(freq >= 0, flag, freq, "0 (no MoE layer) or a positive number")
        if not self.has_moe:
            return
        require(
            self.num_experts >= 1,
            "--moe-expert-count",
            self.num_experts,
            "at least 1 where --moe-freq asks for MoE layers; 8, say",
        )
        require(
            0 <= self.capacity_factor < inf,
            "--capacity-factor",
            self.capacity_factor,
            "0 (dropless) or a positive number; 1.0 is usual",
        )
        fraction = self.eval_capacity_token_fraction
        require(
            fraction == -1 or 0 <= fraction <= 1,
            "--moe-eval-capacity-token-fraction",
            fraction,
            "0 (dropless), a share of the tokens up to 1, or -1 (as in training)",
        )
        require(
            self.normalize_expert_grad in EXPERT_GRAD_RULES,
            "--moe-normalize-expert-grad",
            self.normalize_expert_grad,
            f"one of {', '.join(EXPERT_GRAD_RULES)}",
        )
        require(
            self.expert_ffn_dim is None or self.expert_ffn_dim >= 1,
            "--moe-expert-ffn-dim",
            self.expert_ffn_dim,
            "at least 1",
        )

        for flag, value, choices in (
            ("--moe-expert-backend", self.expert_backend, EXPERT_BACKENDS),
            ("--scomoe-type", self.scomoe_type, SCOMOE_TYPES),
            ("--gate-type", self.gate_type, GATE_TYPES),
            ("--scomoe-inference-routing", self.inference_routing, INFERENCE_ROUTINGS),
            ("--cluster-by", self.cluster_by, CLUSTER_KEYS),
            ("--scomoe-partition", self.partition, PARTITIONS),
            ("--scomoe-inference-partition", self.inference_partition, INFERENCE_PARTITIONS),
            ("--moe-exchange", self.exchange, EXCHANGES),
            ("--moe-exchange-schedule", self.exchange_schedule, EXCHANGE_SCHEDULES),
        ):
            require(value in choices, flag, value, f"one of {', '.join(choices)}")
        require(
            0 < self.temperature < inf, "--temperature", self.temperature, "positive; 0.5 is usual"
        )
        require(
            self.cluster_warmup >= 0, "--cluster-warmup", self.cluster_warmup, "0 or more updates"
        )
        if self.cluster_by != "scores" and not self.token_cluster:
            raise UserError(
                f"--cluster-by {self.cluster_by} needs --token-cluster, which clusters tokens"
            )
        if self.cluster_by != "scores" and self.gate_type == "sigmoid":
            raise UserError(
                f"--gate-type sigmoid needs --cluster-by scores, which it learns, but that is "
                f"{self.cluster_by}; leave --gate-type out"
            )
        if (self.scomoe_type == "bottleneck") != (self.exchange_dim is not None):
            raise UserError(
                "--scomoe-type bottleneck and --moe-exchange-dim, the features that travel, go "
                "together; give both, or leave both out"
            )
        self.gate.check()
        self.shared.check()
        assert self.shares  # raises where the ratios are wrong

    @property
    def shares(self) -> Shares:
        """α and β as the user wrote them."""
        return Shares.of(self.ratio1, self.ratio2)

    @property
    def divides(self) -> bool:
        """Whether α and β mean anything: tokens or features have different reaches."""
        return self.scomoe_type in _DIVIDED

    @property
    def reorders(self) -> bool:
        """Whether the MoE layers of a stack follow each other, after all attention."""
        return self.token_cluster or self.reorder_layers

    def num_cluster_groups(self, num_nodes: int) -> int:
        """Clusters: one an expert; one a node where SCoMoE keeps nothing on a rank (the release's
        rule). A trained model keeps those that it was trained with, whatever its ratios are now.
        """
        if self.cluster_groups is not None:
            return self.cluster_groups
        by_node = self.divides and num_nodes > 1 and self.ratio1 == 0 and self.ratio2 < 1
        return num_nodes if by_node else self.num_experts

    @property
    def has_moe(self) -> bool:
        return self.encoder_freq > 0 or self.decoder_freq > 0

    @property
    def capacity(self) -> CapacityRule:
        return CapacityRule(
            top_k=1 if self.gate.top1 else 2,
            factor=self.capacity_factor,
            evaluation_fraction=self.eval_capacity_token_fraction,
        )


def _reader(args: Namespace) -> Callable[[str, Any], Any]:
    values = vars(args)

    def read(name: str, default: Any) -> Any:
        # A namespace from another program, or an older checkpoint, may lack a name.
        value = values.get(name)
        return default if value is None else value

    return read
