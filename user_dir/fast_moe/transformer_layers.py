"""Transformer layers with a mixture of experts as their feed-forward part. Level 4.

Activations are (S, B, D), as everywhere in fairseq: positions, sentences, width.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

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

from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts import ExpertFFN
from user_dir.fast_moe.gates import GShardGate, SwitchGate
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.tokens import RankedTokens
from user_dir.fast_moe.topology import Topology


@dataclass(frozen=True)
class MoeParts:
    """What a model's MoE layers share."""

    config: MoeConfig
    topology: Topology


@dataclass(frozen=True)
class LayerReport:
    """What one MoE layer tells the criterion: its balance loss by hosted rank, its statistics."""

    name: str
    balance_loss_V: Tensor
    sums: Tensor


def build_moe_layer(
    parts: MoeParts, cfg: TransformerConfig, *, dim: int, ffn_dim: int, name: str
) -> EfficientMoeLayer:
    """A plain GShard or Switch layer, as the configuration says."""
    moe, topology = parts.config, parts.topology
    gate: SwitchGate | GShardGate
    if moe.top1:
        gate = SwitchGate(
            dim=dim,
            num_experts=topology.num_experts,
            use_fp32=moe.gating_use_fp32,
            prioritize=moe.prioritized_routing,
        )
    else:
        gate = GShardGate(
            dim=dim,
            num_experts=topology.num_experts,
            use_fp32=moe.gating_use_fp32,
            second_policy=moe.second_expert_policy,
            normalize_before_dropping=moe.normalize_before_dropping,
            prioritize=moe.prioritized_routing,
        )
    experts = ExpertFFN(
        dim=dim,
        hidden_dim=moe.expert_ffn_dim or ffn_dim,
        topology=topology,
        activation_fn=utils.get_activation_fn(cfg.activation_fn),
        activation_dropout=float(cfg.activation_dropout or cfg.relu_dropout or 0.0),
    )
    return EfficientMoeLayer(
        gate=gate, experts=experts, topology=topology, capacity=moe.capacity, name=name
    )


class MoeSublayer(nn.Module):
    """Norm, mixture of experts, dropout and residual, in the order of `normalize_before`."""

    def __init__(self, moe: EfficientMoeLayer, *, dim: int, normalize_before: bool, dropout: float):
        super().__init__()
        self.moe = moe
        self.layer_norm = LayerNorm(dim)
        self.normalize_before = normalize_before
        self.dropout = FairseqDropout(dropout, module_name=self.__class__.__name__)

    def forward(self, x_SBD: Tensor, tokens: RankedTokens) -> tuple[Tensor, LayerReport]:
        residual = x_SBD
        if self.normalize_before:
            x_SBD = self.layer_norm(x_SBD)
        output = self.moe(tokens.collect(x_SBD), tokens)
        x_SBD = residual + self.dropout(tokens.scatter(output.y_VTD, x_SBD))
        if not self.normalize_before:
            x_SBD = self.layer_norm(x_SBD)
        return x_SBD, LayerReport(self.moe.name, output.balance_loss_V, output.sums)


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

    def __init__(self, cfg: TransformerConfig, parts: MoeParts, *, name: str):
        super().__init__()
        dim = cfg.encoder.embed_dim
        self.attention = EncoderAttentionLayer(cfg)
        self.feed_forward = MoeSublayer(
            build_moe_layer(parts, cfg, dim=dim, ffn_dim=cfg.encoder.ffn_embed_dim, name=name),
            dim=dim,
            normalize_before=cfg.encoder.normalize_before,
            dropout=cfg.dropout,
        )

    def forward(self, x_SBD: Tensor, padding_mask: Tensor | None, tokens: RankedTokens):
        """Returns (S, B, D) and the `LayerReport`."""
        return self.feed_forward(self.attention(x_SBD, padding_mask), tokens)

    def upgrade_state_dict_named(self, state_dict, name):
        """Nothing to rename; fairseq's encoder asks each of its layers on loading."""


class MoeDecoderLayer(nn.Module):
    """Self- and cross-attention, then a mixture of experts."""

    def __init__(
        self, cfg: TransformerConfig, parts: MoeParts, *, name: str, no_encoder_attn: bool
    ):
        super().__init__()
        dim = cfg.decoder.embed_dim
        self.attention = DecoderAttentionLayer(cfg, no_encoder_attn)
        self.feed_forward = MoeSublayer(
            build_moe_layer(parts, cfg, dim=dim, ffn_dim=cfg.decoder.ffn_embed_dim, name=name),
            dim=dim,
            normalize_before=cfg.decoder.normalize_before,
            dropout=cfg.dropout,
        )

    def forward(self, x_SBD: Tensor, *args, tokens: RankedTokens, **kwargs):
        """fairseq's decoder arguments, and the tokens; returns fairseq's triple and the report."""
        x_SBD, attention, state = self.attention(x_SBD, *args, **kwargs)
        x_SBD, report = self.feed_forward(x_SBD, tokens)
        return x_SBD, attention, state, report


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
