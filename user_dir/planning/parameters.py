"""How many parameters a model has, counted as the layers are built."""

from dataclasses import dataclass

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.experts.bottleneck import bottleneck_hidden_dim
from user_dir.planning.setting import Setting, Stack, mixtures
from user_dir.transformer.layer_order import DenseLayer


@dataclass(frozen=True)
class Parameters:
    """Counts over the model, and those that a rank holds."""

    shared: int  # every rank holds them
    experts: int  # of all experts
    experts_of_rank: int

    @property
    def total(self) -> int:
        return self.shared + self.experts

    @property
    def of_rank(self) -> int:
        return self.shared + self.experts_of_rank


def count_parameters(setting: Setting) -> Parameters:
    """Count them by their kind."""
    shared = _embeddings(setting) + sum(_dense(setting, stack) for stack in setting.stacks)
    shared += sum(_around_experts(setting, stack, kind) for stack, kind, _ in mixtures(setting))
    of_one = sum(
        _ffn(width, hidden)
        for stack, kind, _ in mixtures(setting)
        for width, hidden in expert_shapes(setting, stack, kind)
    )
    return Parameters(
        shared, of_one * setting.config.num_experts, of_one * setting.experts_per_rank
    )


def expert_shapes(setting: Setting, stack: Stack, kind: LayerKind) -> list[tuple[int, int]]:
    """Width and hidden width of the networks that make up one expert of a layer."""
    hidden = setting.expert_hidden_dim(stack)
    if kind is LayerKind.FEAT:
        widths = setting.config.shares.features(stack.dim).values()
        return [(width, hidden) for width in widths if width]
    if kind is LayerKind.BOTTLENECK:
        width = setting.exchange_dim
        return [(width, bottleneck_hidden_dim(width, dim=stack.dim, hidden_dim=hidden))]
    return [(stack.dim, hidden)]


def _embeddings(setting: Setting) -> int:
    """Positions are computed, not learned."""
    source = setting.source_vocabulary * setting.encoder.dim
    target = setting.target_vocabulary * setting.decoder.dim
    if setting.share_all:
        return source
    return source + (target if setting.share_decoder else 2 * target)


def _dense(setting: Setting, stack: Stack) -> int:
    """Attention, dense feed-forward layers, and their norms."""
    dim, norm = stack.dim, 2 * stack.dim
    attention = _attention(dim, dim) + norm
    if stack.name == "decoder":
        attention += _attention(dim, setting.encoder.dim) + norm
    feed_forward = _ffn(dim, stack.hidden_dim) + norm
    layers = stack.order.layers
    count = len(layers) * attention + layers.count(DenseLayer.FULL) * feed_forward
    if stack.order.tail:
        count += feed_forward
    return count + (norm if stack.pre_norm else 0)


def _around_experts(setting: Setting, stack: Stack, kind: LayerKind) -> int:
    """The gate, the norm before, and what else of a mixture every rank holds."""
    config, dim = setting.config, stack.dim
    count = 2 * dim
    if config.layernorm_after_moe:
        count += 2 * dim
    if kind is LayerKind.CLUSTER:
        # Tables and centroids are no parameters; only scores are learned.
        return count + (dim * config.num_experts if config.cluster_by == "scores" else 0)
    count += dim * config.num_experts
    if setting.shared_hidden_dim(stack):
        count += _ffn(dim, setting.shared_hidden_dim(stack))
        count += dim + 1 if config.shared.conditional else 0
    if kind is LayerKind.FEAT and config.feat_projection:
        count += 2 * dim * dim
    if kind is LayerKind.BOTTLENECK:
        count += 2 * dim * setting.exchange_dim
    return count


def _attention(dim: int, dim_of_keys: int) -> int:
    queries_and_outputs = 2 * (dim * dim + dim)
    return queries_and_outputs + 2 * (dim_of_keys * dim + dim)


def _ffn(width: int, hidden: int) -> int:
    return width * hidden + hidden + hidden * width + width
