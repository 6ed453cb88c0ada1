"""Which layers an encoder or decoder has, in which order, and of which kind its mixtures are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind, MoeConfig


class DenseLayer(Enum):
    """A layer of fairseq's without a mixture."""

    FULL = "full"
    ATTENTION = "attention"  # without its feed-forward part


@dataclass(frozen=True)
class LayerOrder:
    """The layers of an encoder or a decoder, first to last."""

    # For each layer with attention what it is, or the kind of the mixture that is its feed-forward.
    layers: tuple[DenseLayer | LayerKind, ...]
    # Mixtures that follow all attention, behind one dense feed-forward layer.
    tail: tuple[LayerKind, ...] = ()

    @property
    def mixtures(self) -> tuple[LayerKind, ...]:
        """The kinds of all mixtures, first to last."""
        return tuple(kind for kind in self.layers if isinstance(kind, LayerKind)) + self.tail


def order_layers(config: MoeConfig, *, stack: str, num_layers: int) -> LayerOrder:
    """The layers of one stack, "encoder" or "decoder".

    Raises:
        UserError: clustering or reordering does not fit the number of layers or --moe-freq.
    """
    freq = config.encoder_freq if stack == "encoder" else config.decoder_freq
    if freq == 0:
        return LayerOrder(layers=(DenseLayer.FULL,) * num_layers)
    if config.reorders:
        return _reordered(config, stack=stack, num_layers=num_layers, freq=freq)
    kinds = iter(_kinds(config, num_layers // freq))
    return LayerOrder(
        layers=tuple(
            next(kinds) if (index + 1) % freq == 0 else DenseLayer.FULL
            for index in range(num_layers)
        )
    )


def check_type_is_used(config: MoeConfig, orders: Sequence[LayerOrder]) -> None:
    """Refuse a --scomoe-type that no layer would have; a stack's first mixture may not have it."""
    if config.scomoe_type == "none":
        return
    if not any(LayerKind(config.scomoe_type) in order.mixtures for order in orders):
        most = max(len(order.mixtures) for order in orders)
        raise UserError(
            f"--scomoe-type {config.scomoe_type} would be used in no layer: the first MoE layer of "
            f"a stack sends tokens everywhere (or clusters them), and no stack has more than "
            f"{most}; 4 layers with --moe-freq 2 would do"
        )


def _kinds(config: MoeConfig, count: int) -> list[LayerKind]:
    """Mixtures of the type asked for; the first one clusters, or gathers from everywhere where
    the type would keep tokens or features near."""
    plain = config.scomoe_type == "none"
    others = LayerKind.PLAIN if plain else LayerKind(config.scomoe_type)
    first = LayerKind.PLAIN if config.divides else others
    if config.token_cluster:
        first = LayerKind.CLUSTER
    return [first if index == 0 else others for index in range(count)]


def _reordered(config: MoeConfig, *, stack: str, num_layers: int, freq: int) -> LayerOrder:
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
    return LayerOrder(
        layers=(DenseLayer.FULL,) * half + (DenseLayer.ATTENTION,) * half,
        tail=tuple(_kinds(config, half)),
    )
