"""The named sizes of `scomoe`."""

from argparse import Namespace

from fairseq.models import register_model_architecture
from fairseq.models.transformer import base_architecture

import user_dir.transformer.model  # noqa: F401 - fairseq must know the model first


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
