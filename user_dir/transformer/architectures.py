"""The named sizes of `scomoe`, for fairseq."""

from argparse import Namespace

from fairseq.models import register_model_architecture
from fairseq.models.transformer import base_architecture

import user_dir.transformer.model  # noqa: F401 - fairseq must know the model first
from user_dir.transformer.sizes import SIZES


def _apply(args: Namespace, arch: str) -> None:
    for name, value in SIZES[arch].items():
        setattr(args, name, getattr(args, name, value))
    base_architecture(args)


@register_model_architecture("scomoe", "scomoe")
def base_scomoe(args: Namespace) -> None:
    """fairseq's base transformer, with mixtures where --moe-freq asks for them."""
    _apply(args, "scomoe")


@register_model_architecture("scomoe", "scomoe_tiny")
def scomoe_tiny(args: Namespace) -> None:
    """4+4 layers of width 128, every second feed-forward a mixture of 8 experts; for tests."""
    _apply(args, "scomoe_tiny")


@register_model_architecture("scomoe", "scomoe_base")
def scomoe_base(args: Namespace) -> None:
    """The paper's base model: 6+6 layers, 512/2048, 8 heads; every second one a mixture."""
    _apply(args, "scomoe_base")


@register_model_architecture("scomoe", "scomoe_large")
def scomoe_large(args: Namespace) -> None:
    """The paper's large model: 12+12 layers, 1024/4096, 16 heads; every second one a mixture."""
    _apply(args, "scomoe_large")
