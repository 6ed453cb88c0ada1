"""The encoder-decoder Transformer `scomoe`, on fairseq's own `transformer`."""

import logging
from argparse import Namespace
from collections.abc import Mapping
from copy import copy

import torch
from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerModel, base_architecture
from omegaconf import open_dict
from torch import Tensor

from user_dir.checkpoints.fitting import (
    check_saved_experts,
    check_start_fits,
    describe_misfit,
    fits,
)
from user_dir.checkpoints.gathering import SpreadExperts, expert_parameters
from user_dir.checkpoints.layout import (
    check_saved_feature_shares,
    check_saved_layout,
    save_feature_shares,
    save_layout,
    trained_cluster_groups,
)
from user_dir.errors import MisfitError
from user_dir.fast_moe.build import MoeParts
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts.sharding import scale_expert_gradients
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.running_state import fit_running_state, move_running_states
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.transformer.checks import check_scomoe_layout, check_stacks
from user_dir.transformer.decoder import ScomoeDecoder
from user_dir.transformer.encoder import ScomoeEncoder
from user_dir.transformer.flags import add_moe_options, add_scomoe_options
from user_dir.transformer.new_run import check_new_run, choose_clusters
from user_dir.transformer.options import check_training_options, resolve_layout, with_cluster_groups

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
            return cls._build_for_hydra(args, task)
        base_architecture(args)
        choose_clusters(args)
        config = MoeConfig.from_args(args)
        if not config.has_moe:
            return super().build_model(args, task)
        check_training_options(args)
        check_new_run(args)
        check_stacks(config, args)
        # Before the layout is written into the options: only a checkpoint's hold one.
        trained_groups = trained_cluster_groups(vars(args))
        is_from_checkpoint = hasattr(args, "moe_layout_given")
        layout = resolve_layout(args)
        check_scomoe_layout(config, layout)
        config = with_cluster_groups(config, args, layout, trained=trained_groups)
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
        if topology.num_processes > 1:
            model.spread_experts = SpreadExperts(model, topology)
        if not is_from_checkpoint:
            check_start_fits(model, vars(args))
        return model

    @classmethod
    def _build_for_hydra(cls, config, task):
        """Build from the `model` part of a configuration, which the checkpoint keeps instead."""
        args = Namespace(**config)
        model = cls.build_model(args, task)
        with open_dict(config):
            config.update(vars(args))
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
        # Of a built model whose experts are on several processes.
        self.spread_experts: SpreadExperts | None = None
        self._update, self._micro_batch = 0, 0
        if self.moe_parts is not None:
            save_layout(self, self.moe_parts.topology.layout)
            if self.moe_parts.config.scomoe_type == "feat":
                save_feature_shares(self, self.moe_parts.config.shares)

    def set_num_updates(self, num_updates: int) -> None:
        """Told by the task before every micro-batch; the routing noise depends on it."""
        super().set_num_updates(num_updates)
        if num_updates != self._update:
            self.end_update()
            self._update = num_updates

    def end_update(self) -> None:
        """Let what layers learn without a gradient move by an update. A collective.

        Our tasks call it after every step of the optimizer, so that checkpoints hold its result;
        with other tasks the next update begins with it.
        """
        if self._micro_batch:
            move_running_states(self, next(self.parameters()).device)
        self._micro_batch = 0

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        sentence_ranks: Tensor | None = None,
        sentence_directions: Tensor | None = None,
        **kwargs,
    ):
        """fairseq's forward pass.

        Args:
            sentence_ranks: for each sentence the hosted rank (0 … V-1) that it belongs to, -1
                for a sentence that holds no real tokens; by default the batch is divided evenly
                and in order.
            sentence_directions: the number of each sentence's translation direction, for the
                layers' reports; below what `tell_directions_apart` was told.

        Returns:
            fairseq's pair; ``extra["moe_reports"]`` holds a `MoeReport` for each MoE layer and
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
            src_tokens,
            src_lengths,
            sentence_ranks=sentence_ranks,
            noise=noise,
            sentence_directions=sentence_directions,
        )
        return self.decoder(
            prev_output_tokens,
            encoder_out=encoder_out,
            noise=noise,
            sentence_directions=sentence_directions,
            **kwargs,
        )

    def tell_directions_apart(self, number: int) -> None:
        """Let layers report by direction where batches say which one a sentence has."""
        self.encoder.num_directions = self.decoder.num_directions = number

    def _draw_noise_key(self) -> NoiseKey:
        assert self.moe_parts is not None
        key = NoiseKey(self.moe_parts.config.seed, self._update, self._micro_batch)
        self._micro_batch += 1
        return key

    def state_dict(self, *args, **kwargs):
        """All tensors, with those of the experts of all processes."""
        state_dict = super().state_dict(*args, **kwargs)
        if self.spread_experts is None:
            return state_dict
        return self.spread_experts.with_whole_weights(state_dict)

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """Load a checkpoint of any number of processes; its layout must be this model's."""
        self._check_kind(state_dict)
        if self.spread_experts is not None:
            state_dict = self.spread_experts.own_weights(state_dict)
        state_dict = fit_running_state(state_dict, self)
        try:
            return super().load_state_dict(state_dict, strict, model_cfg, args)
        except RuntimeError as error:  # torch's list of all tensors that differ
            raise MisfitError(describe_misfit(state_dict, self)) from error

    def check_fits(self, state_dict: Mapping[str, Tensor]) -> None:
        """Refuse a checkpoint that would not load. Reads none of its experts.

        Raises:
            UserError: it is of another layout, or has other tensors.
        """
        experts = expert_parameters(self)
        shapes = {n: t.to("meta") if n in experts else t for n, t in state_dict.items()}
        self._check_kind(shapes)
        self.upgrade_state_dict(shapes)
        if self.spread_experts is not None:
            shapes = self.spread_experts.own_weights(shapes)
        shapes = fit_running_state(shapes, self)
        if not fits(shapes, self):
            raise MisfitError(describe_misfit(shapes, self))

    def _check_kind(self, state_dict: dict[str, Tensor]) -> None:
        if self.moe_parts is None:
            return
        check_saved_layout(
            state_dict, self.moe_parts.topology.layout, is_given=self.args.moe_layout_given
        )
        check_saved_experts(state_dict, self, wanted=self.moe_parts.config.num_experts)
        if self.moe_parts.config.scomoe_type == "feat":
            check_saved_feature_shares(state_dict, self.moe_parts.config.shares)


def _log_parameters(model: torch.nn.Module, topology: Topology) -> None:
    """All parameters, those of experts on other processes included."""
    experts = sum(p.numel() for p in expert_parameters(model).values())
    experts = experts * topology.num_experts // len(topology.held_experts(topology.process_index))
    shared = sum(p.numel() for p in model.parameters() if not hasattr(p, "expert"))
    logger.info("parameters: %d, of them %d of experts", shared + experts, experts)
