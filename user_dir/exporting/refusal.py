"""How what another program cannot compute is refused."""

from typing import NoReturn

from fairseq.models.transformer import TransformerConfig

from user_dir.errors import UserError


def refuse(condition: object, flag: str, why: str) -> None:
    """Refuse a model for one of its options, with the reason.

    Raises:
        UserError: the condition holds; whoever knows the file's name adds it.
    """
    if condition:
        raise UserError(f"{flag} cannot be exported: {why}")


def refuse_other_decoders(cfg: TransformerConfig, *, program: str) -> None:
    """Refuse a model without positions, or whose decoder has other parts than is usual.

    Raises:
        UserError: says which option is to blame.
    """
    refuse(
        cfg.no_token_positional_embeddings,
        "--no-token-positional-embeddings",
        f"{program} always adds positions",
    )
    refuse(
        cfg.no_decoder_final_norm,
        "--no-decoder-final-norm",
        f"{program} has a norm behind its decoder",
    )
    refuse(
        cfg.no_cross_attention or cfg.cross_self_attention,
        "--no-cross-attention" if cfg.no_cross_attention else "--cross-self-attention",
        f"{program}'s decoder layers attend to themselves and then to the encoder",
    )


def refuse_tensor(name: str, *, program: str) -> NoReturn:
    """Refuse a model for a parameter that has no place elsewhere, whichever option made it."""
    raise UserError(f"its {name} cannot be exported: {program} has no such part")
