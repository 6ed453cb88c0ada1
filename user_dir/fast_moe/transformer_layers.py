"""fairseq's layers, attention only or with a mixture as their feed-forward part. Level 4.

Activations are (S, B, D), as everywhere in fairseq: positions, sentences, width.
"""

from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn

from user_dir.fast_moe.layer_builder import MoeParts, StackConfig
from user_dir.fast_moe.sublayers import MoeSublayer
from user_dir.fast_moe.tokens import PlacedTokens


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
