"""The encoder-decoder Transformer `scomoe`, on fairseq's own `transformer`. Level 5."""

import logging
from argparse import Namespace
from copy import copy

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModel,
    base_architecture,
)
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)
from torch import Tensor

from user_dir.fast_moe.checkpoint import (
    check_saved_feature_shares,
    check_saved_layout,
    declare_dense,
    declare_trained,
    save_feature_shares,
    save_layout,
)
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.errors import UserError
from user_dir.fast_moe.expert_sharding import scale_expert_gradients
from user_dir.fast_moe.layer_plan import ATTENTION, FULL, StackPlan, check_type_is_used, plan_stack
from user_dir.fast_moe.noise import NoiseKey
from user_dir.fast_moe.options import (
    add_moe_options,
    add_scomoe_options,
    check_training_options,
    resolve_layout,
)
from user_dir.fast_moe.tokens import rank_tokens
from user_dir.fast_moe.topology import Layout, Topology
from user_dir.fast_moe.transformer_layers import (
    ClusteredMoeStack,
    DecoderAttentionLayer,
    EncoderAttentionLayer,
    LayerReport,
    MoeDecoderLayer,
    MoeEncoderLayer,
    MoeParts,
    StackConfig,
    run_layer,
)

logger = logging.getLogger(__name__)


@register_model("scomoe")
class ScomoeModel(TransformerModel):
    """A Transformer whose feed-forward layers are mixtures of experts.

    Without a MoE layer it is fairseq's `transformer`, parameter for parameter.
    """

    @classmethod
    def add_args(cls, parser):
        """Add fairseq's transformer options and ours."""
        super().add_args(parser)
        add_moe_options(parser)
        add_scomoe_options(parser)

    @classmethod
    def build_model(cls, args, task):
        """Build the model; writes the resolved layout into ``args``, which the checkpoint keeps."""
        if not isinstance(args, Namespace):  # fairseq-hydra-train
            args = Namespace(**args)
        base_scomoe(args)
        config = MoeConfig.from_args(args)
        if not config.has_moe:
            declare_dense()
            return super().build_model(args, task)
        check_training_options(args)
        check_stacks(config, args)
        layout = resolve_layout(args)
        check_scomoe_layout(config, layout)
        topology = Topology(layout, num_experts=config.num_experts)
        logger.info(
            "layout: %s; %d processes host %d ranks each; %d experts, %d a rank",
            layout,
            topology.num_processes,
            topology.num_hosted,
            topology.num_experts,
            topology.experts_per_rank,
        )
        # The configuration object that fairseq hands to every builder carries our parts along.
        args_with_parts = copy(args)
        args_with_parts.moe_parts = MoeParts(config=config, topology=topology)
        model = super().build_model(args_with_parts, task)
        _log_parameters(model, topology)
        scale_expert_gradients(model, topology, rule=config.normalize_expert_grad)
        declare_trained(model, topology)
        return model

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens):
        return ScomoeEncoder(TransformerConfig.from_namespace(args), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        cfg = TransformerConfig.from_namespace(args)
        return ScomoeDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def __init__(self, args, encoder, decoder):
        super().__init__(args, encoder, decoder)
        self.moe_parts: MoeParts | None = getattr(args, "moe_parts", None)
        self._update, self._micro_batch = 0, 0
        if self.moe_parts is not None:
            save_layout(self, self.moe_parts.topology.layout)
            if self.moe_parts.config.scomoe_type == "feat":
                save_feature_shares(self, self.moe_parts.config.shares)

    def set_num_updates(self, num_updates: int) -> None:
        """Told by the task before every micro-batch; the routing noise depends on it."""
        super().set_num_updates(num_updates)
        if num_updates != self._update:
            self._update, self._micro_batch = num_updates, 0

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        sentence_ranks: Tensor | None = None,
        **kwargs,
    ):
        """fairseq's forward pass.

        Args:
            sentence_ranks: for each sentence the hosted rank (0 … V-1) that it belongs to, -1
                for a sentence that holds no real tokens; by default the batch is divided evenly
                and in order.

        Returns:
            fairseq's pair; ``extra["moe_reports"]`` holds a `LayerReport` for each MoE layer and
            ``extra["sentence_ranks"]`` the ranks.
        """
        if self.moe_parts is None:
            return super().forward(src_tokens, src_lengths, prev_output_tokens, **kwargs)
        if sentence_ranks is None:
            num_sentences = src_tokens.shape[0]
            sentence_ranks = torch.arange(num_sentences, device=src_tokens.device)
            sentence_ranks = sentence_ranks * self.moe_parts.topology.num_hosted // num_sentences
        noise = self._draw_noise_key() if self.training else None
        kwargs.pop("return_all_hiddens", None)
        encoder_out = self.encoder(
            src_tokens, src_lengths, sentence_ranks=sentence_ranks, noise=noise
        )
        return self.decoder(prev_output_tokens, encoder_out=encoder_out, noise=noise, **kwargs)

    def _draw_noise_key(self) -> NoiseKey:
        assert self.moe_parts is not None
        key = NoiseKey(self.moe_parts.config.seed, self._update, self._micro_batch)
        self._micro_batch += 1
        return key

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """Load a checkpoint of any number of processes; its layout must be this model's."""
        if self.moe_parts is not None:
            check_saved_layout(
                state_dict, self.moe_parts.topology.layout, is_given=self.args.moe_layout_given
            )
            if self.moe_parts.config.scomoe_type == "feat":
                check_saved_feature_shares(state_dict, self.moe_parts.config.shares)
        return super().load_state_dict(state_dict, strict, model_cfg, args)


def check_stacks(config: MoeConfig, args: Namespace) -> list[StackPlan]:
    """The plans of encoder and decoder.

    Raises:
        ValueError: clustering, reordering or a type does not fit the layers or their width.
    """
    plans = [
        plan_stack(config, stack=stack, num_layers=getattr(args, f"{stack}_layers"))
        for stack in ("encoder", "decoder")
    ]
    check_type_is_used(config, plans)
    for stack, plan in zip(("encoder", "decoder"), plans, strict=True):
        if "feat" in plan.mixtures:
            config.shares.features(getattr(args, f"{stack}_embed_dim"))
    return plans


def check_scomoe_layout(config: MoeConfig, layout: Layout) -> None:
    """Refuse fewer experts than ranks where tokens may not leave their rank or node.

    Raises:
        ValueError: the number of experts is no multiple of the number of ranks.
    """
    if config.scomoe_type == "none" and not config.token_cluster:
        return
    num_experts, num_ranks = config.num_experts, layout.num_ranks
    if num_experts % num_ranks:
        flag = f"--scomoe-type {config.scomoe_type}"
        near = max(1, round(num_experts / num_ranks)) * num_ranks
        raise UserError(
            f"{'--token-cluster' if config.token_cluster else flag} needs the same number of "
            f"experts on every rank, but --moe-expert-count is {num_experts} for {num_ranks} "
            f"logical ranks ({layout}); {near} would do"
        )


def _log_parameters(model: torch.nn.Module, topology: Topology) -> None:
    """All parameters, those of experts on other processes included."""
    experts = sum(p.numel() for p in model.parameters() if hasattr(p, "expert"))
    experts = experts * topology.num_experts // len(topology.held_experts(topology.process_index))
    shared = sum(p.numel() for p in model.parameters() if not hasattr(p, "expert"))
    logger.info("parameters: %d, of them %d of experts", shared + experts, experts)


class _MoeStack:
    """What encoder and decoder share: which layers are mixtures, and their tokens."""

    cfg: TransformerConfig
    moe_parts: MoeParts | None
    tail: ClusteredMoeStack | None

    def _plan_layers(self, cfg: TransformerConfig, stack: str) -> None:
        """Call before fairseq's constructor, which builds layers without saying which."""
        self.moe_parts = getattr(cfg, "moe_parts", None)
        self._stack = stack
        self._next_index = 0
        if self.moe_parts is not None:
            num_layers = cfg.encoder.layers if stack == "encoder" else cfg.decoder.layers
            self._plan = plan_stack(self.moe_parts.config, stack=stack, num_layers=num_layers)

    def _next_kind(self) -> str:
        if self.moe_parts is None:
            return FULL
        self._next_index += 1
        return self._plan.layers[self._next_index - 1]

    def _build_tail(self, cfg: TransformerConfig) -> None:
        """Call after fairseq's constructor: the mixtures of a reordered stack."""
        self.tail = None
        if self.moe_parts is not None and self._plan.tail:
            stack = StackConfig.of(cfg, self._stack)
            self.tail = ClusteredMoeStack(self.moe_parts, stack, self._plan.tail, cfg)

    @property
    def _layer_name(self) -> str:
        return f"{self._stack}.{self._next_index - 1}"

    def _rank_tokens(
        self,
        is_pad_BS: Tensor,
        rank_B: Tensor,
        noise: NoiseKey | None,
        *,
        is_reported: bool = True,
    ):
        assert self.moe_parts is not None
        return rank_tokens(
            is_pad_BS,
            rank_B,
            num_hosted=self.moe_parts.topology.num_hosted,
            noise=noise,
            shares=self.moe_parts.seq_shares,
            is_reported=is_reported,
        )


class ScomoeEncoder(_MoeStack, TransformerEncoderBase):
    """fairseq's encoder with MoE layers among its layers."""

    def __init__(self, cfg, dictionary, embed_tokens):
        self._plan_layers(cfg, "encoder")
        super().__init__(cfg, dictionary, embed_tokens)
        self._build_tail(cfg)

    def build_encoder_layer(self, cfg):
        kind = self._next_kind()
        if self.moe_parts is None:
            return super().build_encoder_layer(cfg)
        if kind == FULL:
            return TransformerEncoderLayerBase(cfg)
        if kind == ATTENTION:
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
        tokens = self._rank_tokens(is_pad_BS, sentence_ranks, noise)
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = x.masked_fill(is_pad_BS.unsqueeze(-1), 0).transpose(0, 1)
        states = [x] if return_all_hiddens else []
        reports: list[LayerReport] = []
        for layer in self.layers:
            if isinstance(layer, MoeEncoderLayer):
                x, of_layer = run_layer(
                    self.cfg, layer, x, padding_mask, tokens, training=self.training
                )
                reports += of_layer
            else:
                x = run_layer(self.cfg, layer, x, padding_mask, training=self.training)
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
            "moe_reports": reports,
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


class ScomoeDecoder(_MoeStack, TransformerDecoderBase):
    """fairseq's decoder with MoE layers among its layers."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False):
        self._plan_layers(cfg, "decoder")
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=no_encoder_attn)
        self._build_tail(cfg)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        kind = self._next_kind()
        if self.moe_parts is None:
            return super().build_decoder_layer(cfg, no_encoder_attn)
        if kind == FULL:
            return TransformerDecoderLayerBase(cfg, no_encoder_attn)
        if kind == ATTENTION:
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
            is_pad_BS, sentence_ranks, noise, is_reported=incremental_state is None
        )
        encoded = encoder_out["encoder_out"][0]
        encoder_padding_mask = encoder_out["encoder_padding_mask"][0]
        is_causal = incremental_state is None and not full_context_alignment
        future_mask = self.buffered_future_mask(x) if is_causal else None
        self_padding_mask = is_pad_BS if self.cross_self_attention or is_pad_BS.any() else None

        attention = None
        states = [x]
        reports: list[LayerReport] = list(encoder_out["moe_reports"])
        for index, layer in enumerate(self.layers):
            aligns = index == alignment_layer
            is_moe = isinstance(layer, MoeDecoderLayer)
            x, layer_attention, _, *of_layer = run_layer(
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
            reports += of_layer[0] if is_moe else []
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
            "moe_reports": reports,
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


def _default(args: Namespace, **values) -> None:
    for name, value in values.items():
        setattr(args, name, getattr(args, name, value))


@register_model_architecture("scomoe", "scomoe")
def base_scomoe(args: Namespace) -> None:
    """fairseq's base transformer, with mixtures where --moe-freq asks for them."""
    base_architecture(args)


@register_model_architecture("scomoe", "scomoe_tiny")
def scomoe_tiny(args: Namespace) -> None:
    """4+4 layers of width 128, every second feed-forward a mixture of 8 experts; for tests."""
    _default(
        args,
        encoder_embed_dim=128,
        encoder_ffn_embed_dim=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        decoder_layers=4,
        decoder_attention_heads=4,
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        share_all_embeddings=True,
    )
    _default_mixture(args)
    base_scomoe(args)


@register_model_architecture("scomoe", "scomoe_base")
def scomoe_base(args: Namespace) -> None:
    """The paper's base model: 6+6 layers, 512/2048, 8 heads; every second one a mixture."""
    _default_mixture(args)
    base_scomoe(args)


@register_model_architecture("scomoe", "scomoe_large")
def scomoe_large(args: Namespace) -> None:
    """The paper's large model: 12+12 layers, 1024/4096, 16 heads; every second one a mixture."""
    _default(
        args,
        encoder_embed_dim=1024,
        encoder_ffn_embed_dim=4096,
        encoder_layers=12,
        encoder_attention_heads=16,
        decoder_layers=12,
        decoder_attention_heads=16,
        moe_expert_count=32,
    )
    _default_mixture(args)
    base_scomoe(args)


def _default_mixture(args: Namespace) -> None:
    _default(args, moe_freq=2, moe_expert_count=8)
