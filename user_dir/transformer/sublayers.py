"""Feed-forward parts of a Transformer layer: norm, network or mixture, dropout, residual.

Shape suffixes: V hosted ranks, T tokens, D width.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from user_dir.fast_moe.build import ExpertSizes, MoeParts, build_clustering_layer, build_moe_layer
from user_dir.fast_moe.clustering.clusters import TokenClusters
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.report import MoeReport
from user_dir.fast_moe.tokens.ranked import RankedTokens


@dataclass(frozen=True)
class SublayerConfig:
    """What the feed-forward parts of an encoder or a decoder have in common."""

    stack: str  # "encoder" or "decoder"
    sizes: ExpertSizes
    dropout: float
    normalize_before: bool

    @staticmethod
    def of(cfg: TransformerConfig, stack: str, *, num_keys: int = 0) -> "SublayerConfig":
        """Read fairseq's configuration.

        Args:
            num_keys: size of the stack's dictionary, for clusters that follow from tokens.
        """
        of_stack = cfg.encoder if stack == "encoder" else cfg.decoder
        return SublayerConfig(
            stack=stack,
            sizes=ExpertSizes(
                dim=of_stack.embed_dim,
                hidden_dim=of_stack.ffn_embed_dim,
                activation_fn=utils.get_activation_fn(cfg.activation_fn),
                activation_dropout=float(cfg.activation_dropout or cfg.relu_dropout or 0.0),
                num_keys=num_keys,
            ),
            dropout=cfg.dropout,
            normalize_before=of_stack.normalize_before,
        )


class _Sublayer(nn.Module):
    """Norm and residual around a feed-forward part, in the order of `normalize_before`."""

    def _add_norm(self, cfg: SublayerConfig) -> None:
        """Not in the constructor: an optimizer's saved state counts parameters in their order."""
        self.layer_norm = LayerNorm(cfg.sizes.dim)
        self.normalize_before = cfg.normalize_before
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)

    def _before(self, x_VTD: Tensor) -> Tensor:
        return self.layer_norm(x_VTD) if self.normalize_before else x_VTD

    def _after(self, x_VTD: Tensor, y_VTD: Tensor) -> Tensor:
        x_VTD = x_VTD + self.dropout(y_VTD)
        return x_VTD if self.normalize_before else self.layer_norm(x_VTD)


class FeedForwardSublayer(_Sublayer):
    """The dense feed-forward layer before the mixtures of a reordered stack."""

    def __init__(self, cfg: SublayerConfig):
        super().__init__()
        self._add_norm(cfg)
        self.fc1 = nn.Linear(cfg.sizes.dim, cfg.sizes.hidden_dim)
        self.fc2 = nn.Linear(cfg.sizes.hidden_dim, cfg.sizes.dim)
        self.activation_fn = cfg.sizes.activation_fn
        name = self.__class__.__name__
        self.activation_dropout = FairseqDropout(cfg.sizes.activation_dropout, module_name=name)

    def forward(self, x_VTD: Tensor) -> Tensor:
        """Norm, two linear maps, residual."""
        hidden = self.activation_dropout(self.activation_fn(self.fc1(self._before(x_VTD))))
        return self._after(x_VTD, self.fc2(hidden))


class _NormedSublayer(_Sublayer):
    """What a layer's experts give may be normalised before the residual is added."""

    def _add_norms(self, parts: MoeParts, cfg: SublayerConfig) -> None:
        self._add_norm(cfg)
        self.norm_after = LayerNorm(cfg.sizes.dim) if parts.config.layernorm_after_moe else None

    def _after(self, x_VTD: Tensor, y_VTD: Tensor) -> Tensor:
        return super()._after(x_VTD, y_VTD if self.norm_after is None else self.norm_after(y_VTD))


class MoeSublayer(_NormedSublayer):
    """Norm, mixture of experts, dropout and residual."""

    def __init__(self, parts: MoeParts, cfg: SublayerConfig, *, kind: LayerKind, name: str):
        super().__init__()
        experts_choose = parts.config.gate.expert_choice and cfg.stack == "encoder"
        self.moe = build_moe_layer(
            parts, cfg.sizes, kind=kind, name=name, experts_choose=experts_choose
        )
        self._add_norms(parts, cfg)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """Apply the layer to the ranks' tokens; the report only if somebody reads it."""
        y_VTD, report = self.moe(self._before(x_VTD), tokens)
        return self._after(x_VTD, y_VTD), report


class ClusteringSublayer(_NormedSublayer):
    """Sends tokens to their clusters and applies each cluster's expert where they arrive.

    y = x + FFN(norm(x)), or, with the sigmoid gate, x + a · FFN(norm(x)): what it mixes with
    weights a and 1 − a is the expert, its residual included, and the token itself.
    """

    def __init__(self, parts: MoeParts, cfg: SublayerConfig, *, name: str):
        super().__init__()
        self.moe = build_clustering_layer(parts, cfg.sizes, name=name)
        self._add_norms(parts, cfg)
        self.is_decoder = cfg.stack == "decoder"

    def cluster(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, TokenClusters]:
        """The tokens at the ranks of their clusters, and the way back."""
        return self.moe.token_clustering_moe(
            x_VTD, tokens, detach=self.is_decoder and self.training, by_step=self.is_decoder
        )

    def forward(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor:
        """Apply the experts to tokens that have arrived."""
        y_VTD = self.moe.cluster_experts(self._before(x_VTD), clusters)
        weight_VT1 = self.moe.cluster_weight(x_VTD, clusters)
        return self._after(x_VTD, y_VTD if weight_VT1 is None else y_VTD * weight_VT1)


def recompute_if_asked(cfg: TransformerConfig, layer: Callable, *args, training: bool, **kwargs):
    """Call a layer, and again in the backward pass where `--checkpoint-activations` says so.

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
