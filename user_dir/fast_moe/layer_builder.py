"""Builds the mixtures of a stack from the configuration. Level 4."""

from dataclasses import dataclass

from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from torch import nn

from user_dir.fast_moe.clustering import ClusteringRule
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts import ExpertFFN
from user_dir.fast_moe.gates import BalanceGate, GShardGate, SwitchGate
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.shares import Reach, Shares
from user_dir.fast_moe.topology import Topology


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
class StackConfig:
    """What the MoE layers of one stack have in common."""

    stack: str  # "encoder" or "decoder"
    dim: int
    ffn_dim: int
    activation: str
    activation_dropout: float
    dropout: float
    normalize_before: bool

    @staticmethod
    def of(cfg: TransformerConfig, stack: str) -> "StackConfig":
        """Read fairseq's configuration."""
        of_stack = cfg.encoder if stack == "encoder" else cfg.decoder
        return StackConfig(
            stack=stack,
            dim=of_stack.embed_dim,
            ffn_dim=of_stack.ffn_embed_dim,
            activation=cfg.activation_fn,
            activation_dropout=float(cfg.activation_dropout or cfg.relu_dropout or 0.0),
            dropout=cfg.dropout,
            normalize_before=of_stack.normalize_before,
        )


def build_moe_layer(
    parts: MoeParts, stack: StackConfig, *, kind: str, name: str
) -> EfficientMoeLayer:
    """A layer of one of the kinds of `EfficientMoeLayer`, as the configuration says."""
    config, topology = parts.config, parts.topology
    shares, clustering, projection = None, None, None
    if kind == "seq":
        shares = parts.seq_shares
    elif kind == "feat":
        shares = config.shares
        if config.feat_projection:
            projection = _identity_map(stack.dim), _identity_map(stack.dim)
    elif kind == "cluster":
        shares = parts.seq_shares
        clustering = ClusteringRule(
            gate_type=config.gate_type,
            temperature=config.temperature,
            inference_routing=config.inference_routing,
        )
    gate = _build_balance_gate(parts, stack) if kind == "cluster" else _build_gate(parts, stack)
    experts: nn.Module
    if kind == "feat":
        features = config.shares.features(stack.dim)
        experts = nn.ModuleDict(
            {
                reach.value: _build_experts(parts, stack, dim=features[reach])
                for reach in Reach
                if features[reach]
            }
        )
    else:
        experts = _build_experts(parts, stack, dim=stack.dim)
    return EfficientMoeLayer(
        gate=gate,
        experts=experts,
        topology=topology,
        capacity=config.capacity,
        name=name,
        kind=kind,
        shares=shares,
        projection=projection,
        clustering=clustering,
        overlap=config.exchange_schedule == "overlap",
    )


def _build_gate(parts: MoeParts, stack: StackConfig) -> SwitchGate | GShardGate:
    config = parts.config
    if config.top1:
        return SwitchGate(
            dim=stack.dim,
            num_experts=parts.topology.num_experts,
            use_fp32=config.gating_use_fp32,
            prioritize=config.prioritized_routing,
        )
    return GShardGate(
        dim=stack.dim,
        num_experts=parts.topology.num_experts,
        use_fp32=config.gating_use_fp32,
        second_policy=config.second_expert_policy,
        normalize_before_dropping=config.normalize_before_dropping,
        prioritize=config.prioritized_routing,
    )


def _build_balance_gate(parts: MoeParts, stack: StackConfig) -> BalanceGate:
    """A cluster for every expert; for every node where nothing is kept on a rank later."""
    num_experts, num_nodes = parts.topology.num_experts, parts.topology.layout.num_nodes
    shares = parts.config.shares
    by_node = num_nodes > 1 and shares.local == 0 and shares.node < 1
    return BalanceGate(
        dim=stack.dim,
        num_experts=num_experts,
        num_groups=num_nodes if by_node else num_experts,
        use_fp32=parts.config.gating_use_fp32,
    )


def _build_experts(parts: MoeParts, stack: StackConfig, *, dim: int) -> ExpertFFN:
    return ExpertFFN(
        dim=dim,
        hidden_dim=parts.config.expert_ffn_dim or stack.ffn_dim,
        topology=parts.topology,
        activation_fn=utils.get_activation_fn(stack.activation),
        activation_dropout=stack.activation_dropout,
        backend=parts.config.expert_backend,
    )


def _identity_map(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(linear.weight)
    return linear
