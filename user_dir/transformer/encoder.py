"""fairseq's Transformer encoder with mixtures of experts."""

import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.report import MoeReport
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.transformer.layer_order import DenseLayer
from user_dir.transformer.layers import EncoderAttentionLayer, MoeEncoderLayer
from user_dir.transformer.stack import MoeStack
from user_dir.transformer.sublayers import recompute_if_asked


class ScomoeEncoder(MoeStack, TransformerEncoderBase):
    """fairseq's encoder with MoE layers among its layers."""

    def __init__(self, cfg, dictionary, embed_tokens):
        self._plan_layers(cfg, "encoder")
        super().__init__(cfg, dictionary, embed_tokens)
        self._build_tail(cfg)

    def build_encoder_layer(self, cfg):
        kind = self._next_kind()
        if self.moe_parts is None:
            return super().build_encoder_layer(cfg)
        if kind is DenseLayer.FULL:
            return TransformerEncoderLayerBase(cfg)
        if kind is DenseLayer.ATTENTION:
            return EncoderAttentionLayer(cfg)
        return MoeEncoderLayer(cfg, self.moe_parts, kind=kind, name=self._layer_name)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
        sentence_ranks: Tensor | None = None,
        noise: NoiseKey | None = None,
        sentence_directions: Tensor | None = None,
    ):
        """fairseq's encoder, whose result also holds "moe_reports" and "sentence_ranks".

        Without ``sentence_ranks``, as in generation, a sentence belongs to the rank given by the
        sum of its token ids: its translation then depends on nothing but itself.
        """
        if self.moe_parts is None:
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        if sentence_ranks is None:
            sentence_ranks = self._ranks_by_content(src_tokens)
        is_pad_BS = src_tokens.eq(self.padding_idx)
        padding_mask = is_pad_BS if is_pad_BS.any() else None
        tokens = self._rank_tokens(
            is_pad_BS,
            sentence_ranks,
            noise,
            ids_BS=src_tokens,
            padding_idx=self.padding_idx,
            direction_B=sentence_directions,
        )
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = x.masked_fill(is_pad_BS.unsqueeze(-1), 0).transpose(0, 1)
        states = [x] if return_all_hiddens else []
        reports: list[MoeReport | None] = []
        for layer in self.layers:
            if isinstance(layer, MoeEncoderLayer):
                x, report = recompute_if_asked(
                    self.cfg, layer, x, padding_mask, tokens, training=self.training
                )
                reports.append(report)
            else:
                x = recompute_if_asked(self.cfg, layer, x, padding_mask, training=self.training)
            if return_all_hiddens:
                states.append(x)
        if self.tail is not None:
            x, tail_reports = self.tail(x, tokens)
            reports += tail_reports
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [is_pad_BS],
            "encoder_embedding": [embedding],
            "encoder_states": states,
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [(~is_pad_BS).sum(dim=1, dtype=torch.int32).unsqueeze(-1)],
            "sentence_ranks": [sentence_ranks],
            "moe_reports": [report for report in reports if report is not None],
        }

    def _ranks_by_content(self, src_tokens: Tensor) -> Tensor:
        assert self.moe_parts is not None
        topology = self.moe_parts.topology
        ids = src_tokens.masked_fill(src_tokens.eq(self.padding_idx), 0)
        hosted = ids.sum(dim=1) % topology.num_ranks - topology.hosted_ranks.start
        if (
            topology.num_processes > 1
            and not ((hosted >= 0) & (hosted < topology.num_hosted)).all()
        ):
            raise UserError(
                f"the experts are spread over {topology.num_processes} processes, and each decodes "
                "the sentences of its own ranks only; translate with scomoe-translate "
                "--spread-experts, or with all experts in one process"
            )
        return hosted

    def reorder_encoder_out(self, encoder_out, new_order):
        """fairseq's reordering, and the sentences' ranks with it."""
        reordered = super().reorder_encoder_out(encoder_out, new_order)
        if "sentence_ranks" in encoder_out:
            ranks = encoder_out["sentence_ranks"][0]
            reordered["sentence_ranks"] = [ranks.index_select(0, new_order)]
            reordered["moe_reports"] = encoder_out["moe_reports"]
        return reordered
