"""fairseq's layers, attention only or with a mixture as their feed-forward part.

Activations are (S, B, D), as everywhere in fairseq: positions, sentences, width.
"""

from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn

from user_dir.fast_moe.build import MoeParts
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.tokens.ranked import PlacedTokens
from user_dir.transformer.sublayers import MoeSublayer, SublayerConfig


class _Zero(nn.Module):
    """Stands for a feed-forward part that adds nothing to the residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


class _WithoutFeedForward(nn.Module):
    """Empties the feed-forward part of a layer of fairseq's; comes before it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.activation_fn = nn.Identity()
        self.final_layer_norm = nn.Identity()  # fairseq applies it after the empty sublayer

    def build_fc1(self, *args):
        return _Zero()

    def build_fc2(self, *args):
        return nn.Identity()


class EncoderAttentionLayer(_WithoutFeedForward, TransformerEncoderLayerBase):
    """Self-attention."""


class DecoderAttentionLayer(_WithoutFeedForward, TransformerDecoderLayerBase):
    """Self- and cross-attention."""


class MoeEncoderLayer(nn.Module):
    """Self-attention, then a mixture of experts."""

    def __init__(self, cfg: TransformerConfig, parts: MoeParts, *, kind: LayerKind, name: str):
        super().__init__()
        self.attention = EncoderAttentionLayer(cfg)
        of_sublayer = SublayerConfig.of(cfg, "encoder")
        self.feed_forward = MoeSublayer(parts, of_sublayer, kind=kind, name=name)

    def forward(self, x_SBD: Tensor, padding_mask: Tensor | None, tokens: PlacedTokens):
        """Returns (S, B, D), 0 at padding, and the mixture's report, if anyone reads it."""
        x_SBD = self.attention(x_SBD, padding_mask)
        x_VTD, report = self.feed_forward(tokens.collect(x_SBD), tokens)
        return tokens.scatter(x_VTD, x_SBD), report

    def upgrade_state_dict_named(self, state_dict, name):
        """Nothing to rename; fairseq's encoder asks each of its layers on loading."""


class MoeDecoderLayer(nn.Module):
    """Self- and cross-attention, then a mixture of experts."""

    def __init__(
        self,
        cfg: TransformerConfig,
        parts: MoeParts,
        *,
        kind: LayerKind,
        name: str,
        no_encoder_attn: bool,
    ):
        super().__init__()
        self.attention = DecoderAttentionLayer(cfg, no_encoder_attn)
        of_sublayer = SublayerConfig.of(cfg, "decoder")
        self.feed_forward = MoeSublayer(parts, of_sublayer, kind=kind, name=name)

    def forward(self, x_SBD: Tensor, *args, tokens: PlacedTokens, **kwargs):
        """fairseq's decoder arguments, and the tokens; returns fairseq's triple and the report."""
        x_SBD, attention, state = self.attention(x_SBD, *args, **kwargs)
        x_VTD, report = self.feed_forward(tokens.collect(x_SBD), tokens)
        return tokens.scatter(x_VTD, x_SBD), attention, state, report
