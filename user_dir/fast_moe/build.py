"""Builds the mixtures of a model from its options."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from user_dir.fast_moe.clustering.assignment import ClusterGate
from user_dir.fast_moe.clustering.balance_gate import BalanceGate
from user_dir.fast_moe.clustering.centroids import CentroidGate
from user_dir.fast_moe.clustering.layer import ClusteringLayer
from user_dir.fast_moe.clustering.token_table import TokenTable
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.experts.bottleneck import bottleneck_hidden_dim, narrow_ends
from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.experts.shared import MixingGate, SharedExpert
from user_dir.fast_moe.gating.balance import Balance, check_topology_shares
from user_dir.fast_moe.gating.bias import ExpertBias
from user_dir.fast_moe.gating.dropout import GatingDropout
from user_dir.fast_moe.gating.expert_choice import ExpertChoiceGate
from user_dir.fast_moe.gating.gates import GShardGate, SwitchGate
from user_dir.fast_moe.gating.masking import OutputMasking
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.shared_options import SharedOptions
from user_dir.fast_moe.tokens.partition import TokenPartition


@dataclass(frozen=True)
class MoeParts:
    """What a model's MoE layers share."""

    config: MoeConfig
    topology: Topology

    @property
    def seq_shares(self) -> Shares | None:
        """α and β of SCoMoE-Seq; on one node what leaves the rank goes everywhere."""
        if self.config.scomoe_type != "seq":
            return None
        shares = self.config.shares
        return shares.on_one_node() if self.topology.layout.num_nodes == 1 else shares


@dataclass(frozen=True)
class ExpertSizes:
    """Widths of a layer's tokens and of its experts' hidden layers, and what these apply."""

    dim: int
    hidden_dim: int
    activation_fn: Callable[[Tensor], Tensor] = F.relu
    activation_dropout: float = 0.0
    num_keys: int = 0  # ids that a token may have, where clusters follow from them


def build_moe_layer(
    parts: MoeParts,
    sizes: ExpertSizes,
    *,
    kind: LayerKind,
    name: str,
    experts_choose: bool = False,
) -> EfficientMoeLayer:
    """A layer of one kind (any but CLUSTER), as the options say.

    Args:
        sizes: the hidden width is overridden by `--moe-expert-ffn-dim`.
        name: tells the layer's routing noise and its report from those of the others.
        experts_choose: let experts choose tokens; the layer then compares all tokens of a rank.

    Raises:
        UserError: the experts' back end cannot run here, or SCoMoE-Feat's slices come out uneven,
            or the width of a bottleneck does not fit.
    """
    config = parts.config
    shares, partition, projection = None, None, None
    if kind is LayerKind.FEAT:
        shares = config.shares
        if config.feat_projection:
            projection = _identity_map(sizes.dim), _identity_map(sizes.dim)
    elif kind is LayerKind.SEQ:
        shares = parts.seq_shares
        assert shares is not None
        partition = TokenPartition(
            parts.topology,
            shares,
            training=config.partition,
            inference=config.inference_partition,
        )
    elif kind is LayerKind.BOTTLENECK:
        assert config.exchange_dim is not None
        projection = narrow_ends(sizes.dim, config.exchange_dim)
    capacity = replace(config.capacity, by_expert=experts_choose)
    gate = _build_gate(parts, sizes, capacity, kind)
    return EfficientMoeLayer(
        gate=gate,
        experts=_build_experts_of(kind, parts, sizes),
        topology=parts.topology,
        capacity=capacity,
        name=name,
        kind=kind,
        shares=shares,
        projection=projection,
        hierarchical=config.exchange == "hierarchical",
        overlap=config.exchange_schedule == "overlap",
        partition=partition,
        everywhere_at_evaluation=config.inference_partition == "everywhere",
        balance=_build_balance(parts, experts_choose=experts_choose),
        dropout=GatingDropout(config.gate.dropout, skips=config.gate.dropout_skips),
        masking=OutputMasking(config.shared.expert_masking, config.shared.final_masking),
        shared=_build_shared(config.shared, sizes),
    )


def build_clustering_layer(parts: MoeParts, sizes: ExpertSizes, *, name: str) -> ClusteringLayer:
    """The layer that sends tokens to their clusters; see `build_moe_layer`."""
    return ClusteringLayer(
        gate=_build_cluster_gate(parts, sizes),
        experts=_build_experts(parts, sizes, dim=sizes.dim),
        topology=parts.topology,
        name=name,
        shares=parts.seq_shares,
        temperature=parts.config.temperature,
    )


def _build_gate(
    parts: MoeParts, sizes: ExpertSizes, capacity: CapacityRule, kind: LayerKind
) -> SwitchGate | GShardGate | ExpertChoiceGate:
    options = parts.config.gate
    common: dict[str, Any] = {
        "dim": sizes.dim,
        "num_experts": parts.topology.num_experts,
        "use_fp32": options.use_fp32,
        "kind": options.kind,
        "limit_nodes": options.limit_nodes,
        "prioritize": options.prioritize,
    }
    if capacity.by_expert:
        divides = kind in (LayerKind.SEQ, LayerKind.FEAT)
        reaches = tuple(Reach) if divides else (Reach.GLOBAL,)
        return ExpertChoiceGate(rule=capacity, reaches=reaches, **common)
    if options.top1:
        return SwitchGate(**common)
    return GShardGate(
        second_policy=options.second_policy,
        normalize_before_dropping=options.normalize_before_dropping,
        **common,
    )


def _build_balance(parts: MoeParts, *, experts_choose: bool) -> Balance:
    options, topology = parts.config.gate, parts.topology
    if experts_choose:
        return Balance(by_experts=True, z_loss_weight=options.z_loss_weight)
    check_topology_shares(options.topology_shares, topology)
    bias = None
    if options.balance == "bias":
        bias = ExpertBias(topology.num_experts, step=options.bias_update)
    return Balance(
        by_loss=options.balance == "loss",
        everywhere=options.balance_scope == "global",
        bias=bias,
        topology_shares=options.topology_shares,
        z_loss_weight=options.z_loss_weight,
    )


def _build_shared(options: SharedOptions, sizes: ExpertSizes) -> SharedExpert | None:
    mixing = None
    if options.conditional:
        mixing = MixingGate(options.gate_dropout, options.budget, options.budget_weight)
    elif options.ffn_dim is None:
        return None
    return SharedExpert(
        dim=sizes.dim,
        hidden_dim=options.ffn_dim or sizes.hidden_dim,
        activation_fn=sizes.activation_fn,
        activation_dropout=sizes.activation_dropout,
        mixing=mixing,
    )


def _build_cluster_gate(parts: MoeParts, sizes: ExpertSizes) -> ClusterGate:
    config, num_experts = parts.config, parts.topology.num_experts
    num_groups = config.num_cluster_groups(parts.topology.layout.num_nodes)
    balances_at_evaluation = config.inference_routing == "balanced"
    if config.cluster_by == "scores":
        return BalanceGate(
            dim=sizes.dim,
            num_experts=num_experts,
            num_groups=num_groups,
            use_fp32=config.gate.use_fp32,
            temperature=config.temperature if config.gate_type == "softmax" else None,
            balances_at_evaluation=balances_at_evaluation,
        )
    table = TokenTable(
        num_keys=sizes.num_keys,
        num_experts=num_experts,
        num_groups=num_groups,
        by_language=config.cluster_by == "language",
    )
    if config.cluster_by != "kmeans":
        return table
    return CentroidGate(
        table,
        dim=sizes.dim,
        warmup=config.cluster_warmup,
        balances_at_evaluation=balances_at_evaluation,
    )


def _build_experts_of(kind: LayerKind, parts: MoeParts, sizes: ExpertSizes) -> nn.Module:
    config = parts.config
    if kind is LayerKind.FEAT:
        features = config.shares.features(sizes.dim)
        return nn.ModuleDict(
            {
                reach.value: _build_experts(parts, sizes, dim=features[reach])
                for reach in Reach
                if features[reach]
            }
        )
    if kind is LayerKind.BOTTLENECK:
        assert config.exchange_dim is not None
        hidden_dim = bottleneck_hidden_dim(
            config.exchange_dim, dim=sizes.dim, hidden_dim=_hidden_dim(parts, sizes)
        )
        return _build_experts(parts, sizes, dim=config.exchange_dim, hidden_dim=hidden_dim)
    return _build_experts(parts, sizes, dim=sizes.dim)


def _hidden_dim(parts: MoeParts, sizes: ExpertSizes) -> int:
    return parts.config.expert_ffn_dim or sizes.hidden_dim


def _build_experts(
    parts: MoeParts, sizes: ExpertSizes, *, dim: int, hidden_dim: int | None = None
) -> ExpertFFN:
    return ExpertFFN(
        dim=dim,
        hidden_dim=hidden_dim or _hidden_dim(parts, sizes),
        topology=parts.topology,
        activation_fn=sizes.activation_fn,
        activation_dropout=sizes.activation_dropout,
        backend=parts.config.expert_backend,
    )


def _identity_map(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(linear.weight)
    return linear
