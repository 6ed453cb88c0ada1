"""Which layers a stack has, in which order, and of which kind its mixtures are. Level 0."""

from dataclasses import dataclass

from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.errors import UserError

FULL, ATTENTION = "full", "attention"


@dataclass(frozen=True)
class StackPlan:
    """The layers of an encoder or a decoder.

    Kinds of mixtures are those of `EfficientMoeLayer`.
    """

    # For each layer with attention: FULL, ATTENTION (without feed-forward), or, where a mixture
    # is its feed-forward, the mixture's kind.
    layers: tuple[str, ...]
    # Kinds of the mixtures that follow the attention, behind one dense feed-forward layer.
    tail: tuple[str, ...] = ()

    @property
    def mixtures(self) -> tuple[str, ...]:
        """The kinds of all mixtures, first to last."""
        return tuple(kind for kind in self.layers if kind not in (FULL, ATTENTION)) + self.tail


def plan_stack(config: MoeConfig, *, stack: str, num_layers: int) -> StackPlan:
    """The plan of one stack, "encoder" or "decoder".

    Raises:
        ValueError: clustering or reordering does not fit the number of layers or --moe-freq.
    """
    freq = config.encoder_freq if stack == "encoder" else config.decoder_freq
    if freq == 0:
        return StackPlan(layers=(FULL,) * num_layers)
    if config.reorders:
        return _reordered(config, stack=stack, num_layers=num_layers, freq=freq)
    num_mixtures = num_layers // freq
    kinds = iter(_kinds(config, num_mixtures))
    return StackPlan(
        layers=tuple(
            next(kinds) if (index + 1) % freq == 0 else FULL for index in range(num_layers)
        )
    )


def check_type_is_used(config: MoeConfig, plans: list[StackPlan]) -> None:
    """Refuse a --scomoe-type that no layer would have; a stack's first mixture never has it."""
    if config.scomoe_type == "none":
        return
    if not any(config.scomoe_type in plan.mixtures for plan in plans):
        most = max(len(plan.mixtures) for plan in plans)
        raise UserError(
            f"--scomoe-type {config.scomoe_type} would be used in no layer: the first MoE layer of "
            f"a stack sends tokens everywhere (or clusters them), and no stack has more than "
            f"{most}; 4 layers with --moe-freq 2 would do"
        )


def _kinds(config: MoeConfig, count: int) -> list[str]:
    """The first mixture gathers from everywhere, the others are of the type asked for."""
    first = "cluster" if config.token_cluster else "plain"
    others = "plain" if config.scomoe_type == "none" else config.scomoe_type
    return [first if index == 0 else others for index in range(count)]


def _reordered(config: MoeConfig, *, stack: str, num_layers: int, freq: int) -> StackPlan:
    flag = "--token-cluster" if config.token_cluster else "--reorder-layers"
    if freq != 2:
        raise UserError(
            f"{flag} needs every second feed-forward of the {stack} to be a mixture, but "
            f"--moe-freq is {freq} there; --moe-freq 2 would do"
        )
    if num_layers % 2 or not num_layers:
        near = f"{num_layers - 1} or {num_layers + 1}" if num_layers > 1 else "2"
        raise UserError(
            f"{flag} needs an even number of layers, but --{stack}-layers is {num_layers}; {near} "
            "would do"
        )
    half = num_layers // 2
    return StackPlan(layers=(FULL,) * half + (ATTENTION,) * half, tail=tuple(_kinds(config, half)))
