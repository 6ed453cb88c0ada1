"""The mixture of experts as a sublayer: norm, mixture, dropout, residual. Level 4."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from user_dir.fast_moe.layer_builder import MoeParts, StackConfig, build_moe_layer
from user_dir.fast_moe.tokens import RankedTokens


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
