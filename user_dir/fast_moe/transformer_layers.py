"""Transformer layers with a mixture of experts as their feed-forward part. Level 4.

Activations are (S, B, D), as everywhere in fairseq: positions, sentences, width.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from user_dir.fast_moe.clustering import ClusteringRule, TokenClusters
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts import ExpertFFN
from user_dir.fast_moe.gates import BalanceGate, GShardGate, SwitchGate
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.shares import Reach, Shares
from user_dir.fast_moe.tokens import PlacedTokens, RankedTokens
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
class LayerReport:
    """What one MoE layer tells the criterion.

    The balance loss is by hosted rank; None for a layer of kind "cluster", which is balanced by
    what it is.
    """

    name: str
    kind: str
    balance_loss_V: Tensor | None
    sums: Tensor


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


class MoeSublayer(nn.Module):
    """Norm, mixture of experts, dropout and residual, in the order of `normalize_before`."""

    def __init__(self, parts: MoeParts, stack: StackConfig, *, kind: str, name: str):
        super().__init__()
        self.moe = build_moe_layer(parts, stack, kind=kind, name=name)
        self.layer_norm = LayerNorm(stack.dim)
        self.norm_after = LayerNorm(stack.dim) if parts.config.layernorm_after_moe else None
        self.normalize_before = stack.normalize_before
        self.dropout = FairseqDropout(stack.dropout, module_name=self.__class__.__name__)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, list[LayerReport]]:
        """Apply the layer to the ranks' tokens; the report only if somebody reads it."""
        output = self.moe(self._before(x_VTD), tokens)
        reports = []
        if output.report is not None:
            balance_loss_V, sums = output.report.balance_loss_V, output.report.sums
            reports = [LayerReport(self.moe.name, "moe", balance_loss_V, sums)]
        return self._after(x_VTD, output.y_VTD), reports

    def _before(self, x_VTD: Tensor) -> Tensor:
        return self.layer_norm(x_VTD) if self.normalize_before else x_VTD

    def _after(self, x_VTD: Tensor, y_VTD: Tensor) -> Tensor:
        if self.norm_after is not None:
            y_VTD = self.norm_after(y_VTD)
        x_VTD = x_VTD + self.dropout(y_VTD)
        return x_VTD if self.normalize_before else self.layer_norm(x_VTD)


class ClusteringSublayer(MoeSublayer):
    """Sends tokens to their clusters and applies each cluster's expert where they arrive.

    y = x + FFN(norm(x)), or, with the sigmoid gate, x + a · FFN(norm(x)): what it mixes with
    weights a and 1 − a is the expert, its residual included, and the token itself.
    """

    def __init__(self, parts: MoeParts, stack: StackConfig, *, name: str):
        super().__init__(parts, stack, kind="cluster", name=name)
        self.is_decoder = stack.stack == "decoder"

    def cluster(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, TokenClusters]:
        """The tokens at the ranks of their clusters, and the way back."""
        return self.moe.token_clustering_moe(
            x_VTD, tokens, detach=self.is_decoder and self.training, by_step=self.is_decoder
        )

    def forward(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor:  # type: ignore[override]
        """Apply the experts to tokens that have arrived."""
        y_VTD = self.moe.cluster_experts(self._before(x_VTD), clusters)
        weight_VT1 = self.moe.cluster_weight(x_VTD, clusters)
        return self._after(x_VTD, y_VTD if weight_VT1 is None else y_VTD * weight_VT1)

    def reports(self, clusters: TokenClusters) -> list[LayerReport]:
        """Sizes of the clusters, what it took to make them, what they sent, if it is read."""
        if clusters.sums is None:
            return []
        return [LayerReport(self.moe.name, "cluster", None, clusters.sums)]


class FeedForwardSublayer(nn.Module):
    """The dense feed-forward layer before the mixtures of a reordered stack."""

    def __init__(self, stack: StackConfig):
        super().__init__()
        self.layer_norm = LayerNorm(stack.dim)
        self.fc1 = nn.Linear(stack.dim, stack.ffn_dim)
        self.fc2 = nn.Linear(stack.ffn_dim, stack.dim)
        self.activation_fn = utils.get_activation_fn(stack.activation)
        self.normalize_before = stack.normalize_before
        name = self.__class__.__name__
        self.activation_dropout = FairseqDropout(stack.activation_dropout, module_name=name)
        self.dropout = FairseqDropout(stack.dropout, module_name=name)

    def forward(self, x_VTD: Tensor) -> Tensor:
        """Norm, two linear maps, residual."""
        y_VTD = self.layer_norm(x_VTD) if self.normalize_before else x_VTD
        y_VTD = self.activation_dropout(self.activation_fn(self.fc1(y_VTD)))
        x_VTD = x_VTD + self.dropout(self.fc2(y_VTD))
        return x_VTD if self.normalize_before else self.layer_norm(x_VTD)


class ClusteredMoeStack(nn.Module):
    """A dense feed-forward layer, then mixtures that follow each other.

    With token clustering the first of them sends every token to its cluster, where it stays
    until all are done. The clusters are a local variable of `forward`.
    """

    def __init__(
        self, parts: MoeParts, stack: StackConfig, kinds: tuple[str, ...], cfg: TransformerConfig
    ):
        super().__init__()
        self.cfg = cfg  # says whether to recompute
        self.feed_forward = FeedForwardSublayer(stack)
        names = [f"{stack.stack}.moe{index}" for index in range(len(kinds))]
        self.clustering: ClusteringSublayer | None = None
        if kinds[0] == "cluster":
            self.clustering = ClusteringSublayer(parts, stack, name=names.pop(0))
            kinds = kinds[1:]
        self.layers = nn.ModuleList(
            MoeSublayer(parts, stack, kind=kind, name=name)
            for kind, name in zip(kinds, names, strict=True)
        )

    def forward(self, x_SBD: Tensor, tokens: PlacedTokens) -> tuple[Tensor, list[LayerReport]]:
        """Returns (S, B, D), 0 at padding, and a report for each mixture."""
        run = partial(run_layer, self.cfg, training=self.training)
        reports: list[LayerReport] = []
        x_VTD = run(self.feed_forward, tokens.collect(x_SBD))
        here: RankedTokens = tokens
        clusters = None
        if self.clustering is not None:
            # Not recomputed: tokens must not be assigned anew in the backward pass.
            x_VTD, clusters = self.clustering.cluster(x_VTD, tokens)
            here = clusters.tokens
            x_VTD = run(self.clustering, x_VTD, clusters)
            reports += self.clustering.reports(clusters)
        for layer in self.layers:
            x_VTD, of_layer = run(layer, x_VTD, here)
            reports += of_layer
        if clusters is not None:
            x_VTD = clusters.restore(x_VTD)
        return tokens.scatter(x_VTD, x_SBD), reports


class _Zero(nn.Module):
    """Stands for a feed-forward part that adds nothing to the residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def _without_feed_forward(layer) -> None:
    layer.activation_fn = _identity
    layer.final_layer_norm = nn.Identity()  # fairseq applies it after the empty sublayer


def _identity(x: Tensor) -> Tensor:
    return x


class EncoderAttentionLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer without its feed-forward part."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__(cfg)
        _without_feed_forward(self)

    def build_fc1(self, *args):
        return _Zero()

    def build_fc2(self, *args):
        return nn.Identity()


class DecoderAttentionLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer, self- and cross-attention, without its feed-forward part."""

    def __init__(self, cfg: TransformerConfig, no_encoder_attn: bool = False):
        super().__init__(cfg, no_encoder_attn)
        _without_feed_forward(self)

    def build_fc1(self, *args):
        return _Zero()

    def build_fc2(self, *args):
        return nn.Identity()


class MoeEncoderLayer(nn.Module):
    """Self-attention, then a mixture of experts."""

    def __init__(self, cfg: TransformerConfig, parts: MoeParts, *, kind: str, name: str):
        super().__init__()
        self.attention = EncoderAttentionLayer(cfg)
        self.feed_forward = MoeSublayer(parts, StackConfig.of(cfg, "encoder"), kind=kind, name=name)

    def forward(self, x_SBD: Tensor, padding_mask: Tensor | None, tokens: PlacedTokens):
        """Returns (S, B, D), 0 at padding, and the `LayerReport`s, one or none."""
        x_SBD = self.attention(x_SBD, padding_mask)
        x_VTD, reports = self.feed_forward(tokens.collect(x_SBD), tokens)
        return tokens.scatter(x_VTD, x_SBD), reports

    def upgrade_state_dict_named(self, state_dict, name):
        """Nothing to rename; fairseq's encoder asks each of its layers on loading."""


class MoeDecoderLayer(nn.Module):
    """Self- and cross-attention, then a mixture of experts."""

    def __init__(
        self,
        cfg: TransformerConfig,
        parts: MoeParts,
        *,
        kind: str,
        name: str,
        no_encoder_attn: bool,
    ):
        super().__init__()
        self.attention = DecoderAttentionLayer(cfg, no_encoder_attn)
        self.feed_forward = MoeSublayer(parts, StackConfig.of(cfg, "decoder"), kind=kind, name=name)

    def forward(self, x_SBD: Tensor, *args, tokens: PlacedTokens, **kwargs):
        """fairseq's decoder arguments, and the tokens; returns fairseq's triple and the reports."""
        x_SBD, attention, state = self.attention(x_SBD, *args, **kwargs)
        x_VTD, reports = self.feed_forward(tokens.collect(x_SBD), tokens)
        return tokens.scatter(x_VTD, x_SBD), attention, state, reports


def run_layer(cfg: TransformerConfig, layer: Callable, *args, training: bool, **kwargs):
    """Call a layer, recomputing it in the backward pass where the configuration says so.

    Not fairseq's own wrapper: it drops the gradients of what is not a direct output.
    """
    if not (cfg.checkpoint_activations and training and torch.is_grad_enabled()):
        return layer(*args, **kwargs)
    offload = (
        torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())
        if cfg.offload_activations
        else contextlib.nullcontext()
    )
    with offload:
        return checkpoint(layer, *args, use_reentrant=False, **kwargs)
