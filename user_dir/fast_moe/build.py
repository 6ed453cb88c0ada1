"""Builds the mixtures of a model from its options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from user_dir.fast_moe.clustering.clusters import ClusteringRule
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.gates import BalanceGate, GShardGate, SwitchGate
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer


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


def build_moe_layer(
    parts: MoeParts, sizes: ExpertSizes, *, kind: LayerKind, name: str
) -> EfficientMoeLayer:
    """A layer of one kind, as the options say.

    Args:
        sizes: the hidden width is overridden by `--moe-expert-ffn-dim`.
        name: tells the layer's routing noise and its report from those of the others.

    Raises:
        UserError: the experts' back end cannot run here, or SCoMoE-Feat's slices come out uneven.
    """
    config = parts.config
    shares, clustering, projection = None, None, None
    if kind is LayerKind.FEAT:
        shares = config.shares
        if config.feat_projection:
            projection = _identity_map(sizes.dim), _identity_map(sizes.dim)
    elif kind in (LayerKind.SEQ, LayerKind.CLUSTER):
        shares = parts.seq_shares
    if kind is LayerKind.CLUSTER:
        clustering = ClusteringRule(
            gate_type=config.gate_type,
            temperature=config.temperature,
            inference_routing=config.inference_routing,
        )
    gate = _build_gate(parts, sizes.dim, kind)
    experts: nn.Module
    if kind is LayerKind.FEAT:
        features = config.shares.features(sizes.dim)
        experts = nn.ModuleDict(
            {
                reach.value: _build_experts(parts, sizes, dim=features[reach])
                for reach in Reach
                if features[reach]
            }
        )
    else:
        experts = _build_experts(parts, sizes, dim=sizes.dim)
    return EfficientMoeLayer(
        gate=gate,
        experts=experts,
        topology=parts.topology,
        capacity=config.capacity,
        name=name,
        kind=kind,
        shares=shares,
        projection=projection,
        clustering=clustering,
        overlap=config.exchange_schedule == "overlap",
        everywhere_at_evaluation=config.inference_partition == "everywhere",
    )


def _build_gate(
    parts: MoeParts, dim: int, kind: LayerKind
) -> SwitchGate | GShardGate | BalanceGate:
    config = parts.config
    common: dict[str, Any] = {
        "dim": dim,
        "num_experts": parts.topology.num_experts,
        "use_fp32": config.gating_use_fp32,
    }
    if kind is LayerKind.CLUSTER:
        num_groups = config.num_cluster_groups(parts.topology.layout.num_nodes)
        return BalanceGate(num_groups=num_groups, **common)
    if config.top1:
        return SwitchGate(prioritize=config.prioritized_routing, **common)
    return GShardGate(
        second_policy=config.second_expert_policy,
        normalize_before_dropping=config.normalize_before_dropping,
        prioritize=config.prioritized_routing,
        **common,
    )


def _build_experts(parts: MoeParts, sizes: ExpertSizes, *, dim: int) -> ExpertFFN:
    return ExpertFFN(
        dim=dim,
        hidden_dim=parts.config.expert_ffn_dim or sizes.hidden_dim,
        topology=parts.topology,
        activation_fn=sizes.activation_fn,
        activation_dropout=sizes.activation_dropout,
        backend=parts.config.expert_backend,
    )


def _identity_map(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(linear.weight)
    return linear
