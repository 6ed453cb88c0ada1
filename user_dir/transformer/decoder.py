"""fairseq's Transformer decoder with mixtures of experts."""

from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from user_dir.fast_moe.report import MoeReport
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.transformer.layer_order import DenseLayer
from user_dir.transformer.layers import DecoderAttentionLayer, MoeDecoderLayer
from user_dir.transformer.stack import MoeStack
from user_dir.transformer.sublayers import recompute_if_asked


class ScomoeDecoder(MoeStack, TransformerDecoderBase):
    """fairseq's decoder with MoE layers among its layers."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False):
        self._plan_layers(cfg, "decoder")
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=no_encoder_attn)
        self._build_tail(cfg)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        kind = self._next_kind()
        if self.moe_parts is None:
            return super().build_decoder_layer(cfg, no_encoder_attn)
        if kind is DenseLayer.FULL:
            return TransformerDecoderLayerBase(cfg, no_encoder_attn)
        if kind is DenseLayer.ATTENTION:
            return DecoderAttentionLayer(cfg, no_encoder_attn)
        return MoeDecoderLayer(
            cfg,
            self.moe_parts,
            kind=kind,
            name=self._layer_name,
            no_encoder_attn=no_encoder_attn,
        )

    def forward(
        self,
        prev_output_tokens,
        encoder_out=None,
        incremental_state=None,
        noise: NoiseKey | None = None,
        features_only: bool = False,
        sentence_directions: Tensor | None = None,
        **kwargs,
    ):
        """fairseq's decoder; the extra dictionary also holds "moe_reports" and "sentence_ranks"."""
        if self.moe_parts is None:
            return super().forward(
                prev_output_tokens,
                encoder_out=encoder_out,
                incremental_state=incremental_state,
                features_only=features_only,
                **kwargs,
            )
        x, extra = self._moe_features(
            prev_output_tokens,
            encoder_out,
            incremental_state,
            noise,
            sentence_directions=sentence_directions,
            full_context_alignment=kwargs.get("full_context_alignment", False),
            alignment_layer=kwargs.get("alignment_layer"),
            alignment_heads=kwargs.get("alignment_heads"),
        )
        return (x if features_only else self.output_layer(x)), extra

    def extract_features(
        self, prev_output_tokens, encoder_out=None, incremental_state=None, **kwargs
    ):
        if self.moe_parts is None:
            return super().extract_features(
                prev_output_tokens, encoder_out, incremental_state, **kwargs
            )
        return self._moe_features(
            prev_output_tokens, encoder_out, incremental_state, None, **kwargs
        )

    def _moe_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out,
        incremental_state,
        noise: NoiseKey | None,
        *,
        sentence_directions: Tensor | None = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ):
        if alignment_layer is None:
            alignment_layer = len(self.layers) - 1
        x, is_pad_BS = self._embed(prev_output_tokens, incremental_state)
        sentence_ranks = encoder_out["sentence_ranks"][0]
        # In cached decoding nobody reads what the layers report.
        tokens = self._rank_tokens(
            is_pad_BS,
            sentence_ranks,
            noise,
            ids_BS=prev_output_tokens,
            padding_idx=self.padding_idx,
            is_reported=incremental_state is None,
            direction_B=sentence_directions,
        )
        encoded = encoder_out["encoder_out"][0]
        encoder_padding_mask = encoder_out["encoder_padding_mask"][0]
        is_causal = incremental_state is None and not full_context_alignment
        future_mask = self.buffered_future_mask(x) if is_causal else None
        self_padding_mask = is_pad_BS if self.cross_self_attention or is_pad_BS.any() else None

        attention = None
        states = [x]
        reports: list[MoeReport | None] = list(encoder_out["moe_reports"])
        for index, layer in enumerate(self.layers):
            aligns = index == alignment_layer
            is_moe = isinstance(layer, MoeDecoderLayer)
            x, layer_attention, _, *report = recompute_if_asked(
                self.cfg,
                layer,
                x,
                encoded,
                encoder_padding_mask,
                incremental_state,
                training=self.training,
                self_attn_mask=future_mask,
                self_attn_padding_mask=self_padding_mask,
                need_attn=aligns,
                need_head_weights=aligns,
                **({"tokens": tokens} if is_moe else {}),
            )
            reports += report
            states.append(x)
            if layer_attention is not None and aligns:
                attention = layer_attention.float().to(x)
        if self.tail is not None:
            x, tail_reports = self.tail(x, tokens)
            reports += tail_reports
        if attention is not None:
            attention = attention[:alignment_heads].mean(dim=0)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        x = x.transpose(0, 1)
        if self.project_out_dim is not None:
            x = self.project_out_dim(x)
        return x, {
            "attn": [attention],
            "inner_states": states,
            "moe_reports": [report for report in reports if report is not None],
            "sentence_ranks": sentence_ranks,
        }

    def _embed(self, prev_output_tokens: Tensor, incremental_state) -> tuple[Tensor, Tensor]:
        """Embedded tokens (S, B, D), in cached decoding the last only, and their padding (B, S)."""
        positions = None
        if self.embed_positions is not None:
            positions = self.embed_positions(
                prev_output_tokens, incremental_state=incremental_state
            )
        if incremental_state is not None:
            prev_output_tokens = prev_output_tokens[:, -1:]
            positions = positions[:, -1:] if positions is not None else None
        x = self.embed_scale * self.embed_tokens(prev_output_tokens.contiguous())
        for module in (self.quant_noise, self.project_in_dim):
            x = module(x) if module is not None else x
        if positions is not None:
            x = x + positions
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        x = self.dropout_module(x)
        return x.transpose(0, 1), prev_output_tokens.eq(self.padding_idx)
