"""What a rank must hold: counted from what the layers keep for the backward pass.

Words are numbers of a rank for one of its tokens, in the precision of training unless another one
is said. A test compares them with the tensors that real models save.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from user_dir.fast_moe.config import LayerKind
from user_dir.planning.parameters import Parameters
from user_dir.planning.setting import Setting, Stack, mixtures
from user_dir.planning.traffic import Trip, passes_of
from user_dir.transformer.layer_order import DenseLayer

# Tensors of the tokens' width that a part keeps.
_ATTENTION = 6  # before and after the norm, queries, keys, values, what they give
_FEED_FORWARD = 2  # before and after the norm; the hidden layer apart
_GATED = 2  # likewise
_CLUSTERED = 5  # also the tokens sorted and where they arrived
_ENDS = 4  # before and after the last norm of both stacks
_ROUTING_WORDS = 20  # of a mixture, and twice as many as there are experts
_CHOSEN_WORDS = 6  # of an expert that chooses: it may take any token
# Float32 scores of the vocabulary at the loss: probabilities, their gradient in two terms, and the
# gradient of the scores.
_SCORES_HELD = 3
_STATE_BYTES = {"moe_adam": 8, "adam": 8, "nag": 4, "sgd": 0}  # of a parameter, besides weights
_LARGEST_BUFFER = 2**28  # numbers that legacy_ddp sums over ranks at once


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank, and of a checkpoint."""

    shared_weights: float
    expert_weights: float
    gradients: float
    optimizer: float  # float32 copies of half-precision weights and their gradients included
    summing: float  # a buffer in which gradients are summed over ranks
    activations: float  # kept for the backward pass
    recomputed: float  # of the layer that keeps most, while it is computed again
    exchange: float  # rows that leave and arrive, of the layer that holds most
    output: float  # scores of the vocabulary
    checkpoint: float  # the file on the disk, and what process 0 holds in the host's memory to save
    loading: float  # a process's share of the file, in the host's memory

    @property
    def steady(self) -> float:
        """What is held all the time."""
        return self.shared_weights + self.expert_weights + self.optimizer + self.summing

    @property
    def peak(self) -> float:
        """The larger of both ends of a backward pass: activations go while gradients come.

        The scores of the vocabulary have gone before a mixture's gradients travel.
        """
        at_once = max(self.output, self.recomputed + self.exchange)
        return self.steady + max(self.activations + at_once, self.gradients)

    @property
    def parts(self) -> dict[str, float]:
        return {name: v for name, v in asdict(self).items() if name not in _OUTSIDE}


_OUTSIDE = ("checkpoint", "loading")  # of the accelerator


def memory_of(setting: Setting, parameters: Parameters) -> Memory:
    """What a setting needs."""
    itemsize = setting.itemsize
    is_half = setting.precision != "fp32"
    of_rank = parameters.of_rank
    state = _STATE_BYTES[setting.optimizer]
    held_state = of_rank * (state + (8 if is_half else 0))
    # Weights are saved in the precision of training, and their float32 copies with the state.
    saved = itemsize + state + (4 if is_half else 0)
    kept, again = _activations(setting)
    summing = min(_LARGEST_BUFFER, of_rank) * itemsize if setting.num_ranks > 1 else 0
    return Memory(
        shared_weights=parameters.shared * itemsize,
        expert_weights=parameters.experts_of_rank * itemsize,
        gradients=of_rank * itemsize,
        optimizer=held_state,
        summing=summing,
        activations=kept,
        recomputed=again,
        exchange=_exchange(setting),
        output=_SCORES_HELD * 4 * setting.tokens * setting.target_vocabulary,
        checkpoint=parameters.total * saved,
        loading=of_rank * saved,
    )


def largest_batch(fits: Callable[[int], bool], *, most: int = 2**20) -> int:
    """The most tokens that fit; 0 where none do.

    Args:
        fits: whether so many do; fewer then do as well.
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _activations(setting: Setting) -> tuple[float, float]:
    """What is kept, and what a layer keeps that is computed again."""
    words = [_stack_words(setting, stack) for stack in setting.stacks]
    tokens, itemsize = setting.tokens, setting.itemsize
    ends = (setting.encoder.dim + setting.decoder.dim) * _ENDS / 2
    ends += sum(_dropped(setting, stack.dim) for stack in setting.stacks)  # of the embeddings
    if not setting.recompute:
        return tokens * itemsize * (ends + sum(sum(of_layers) for of_layers in words)), 0.0
    inputs = sum(
        stack.dim * len(of_layers) for stack, of_layers in zip(setting.stacks, words, strict=True)
    )
    largest = max(max(of_layers) for of_layers in words)
    return tokens * itemsize * (ends + inputs), tokens * itemsize * largest


def _stack_words(setting: Setting, stack: Stack) -> list[float]:
    """Words that each layer of a stack keeps; a mixture behind all attention is a layer."""
    attention = _attention_words(setting, stack)
    dense = _FEED_FORWARD * stack.dim + stack.hidden_dim + _dropped(setting, stack.dim)
    of_layers = []
    for part in stack.order.layers:
        words = attention
        if part is DenseLayer.FULL:
            words += dense
        elif isinstance(part, LayerKind):
            words += _mixture_words(setting, stack, part)
        of_layers.append(words)
    if stack.name == "decoder":  # the last layer's weights are computed, for alignments
        of_layers[-1] += stack.num_heads * setting.sentence_length
    if stack.order.tail:
        of_layers.append(dense)
        of_layers += [_mixture_words(setting, stack, kind) for kind in stack.order.tail]
    return of_layers


def _attention_words(setting: Setting, stack: Stack) -> float:
    """Scores are not kept; a mask of the future and of padding together is, for every head."""
    of_one = _ATTENTION * stack.dim + _dropped(setting, stack.dim)
    if stack.name == "encoder":
        return of_one
    return 2 * of_one + stack.num_heads * setting.sentence_length


def _mixture_words(setting: Setting, stack: Stack, kind: LayerKind) -> float:
    kept = _CLUSTERED if kind is LayerKind.CLUSTER else _GATED
    words = kept * stack.dim + _dropped(setting, stack.dim)
    words += _ROUTING_WORDS + 2 * setting.config.num_experts
    if kind is not LayerKind.CLUSTER and setting.capacity_of(stack).by_expert:
        words += _CHOSEN_WORDS * setting.config.num_experts
    words += (
        max(
            sum(_rows_words(kind, trip) for trip in trips)
            for _, trips in passes_of(setting, stack, kind)
        )
        / setting.tokens
    )
    if kind is not LayerKind.CLUSTER:
        words += setting.shared_hidden_dim(stack)
        # Both outputs, for the gradient of how they are mixed.
        words += 2 * stack.dim if setting.config.shared.conditional else 0
    if kind is LayerKind.BOTTLENECK:
        words += setting.exchange_dim + stack.dim
    return words


def _rows_words(kind: LayerKind, trip: Trip) -> float:
    """What experts keep of their rows."""
    words = trip.rows * (trip.hidden + trip.width)
    if kind is not LayerKind.CLUSTER:  # outputs, for the gradient of their weights
        words += trip.sent_rows * trip.width
    return words


def _dropped(setting: Setting, dim: int) -> float:
    """What dropout keeps: on a GPU a byte for each number, on a CPU a number."""
    if not setting.dropout:
        return 0.0
    return dim if setting.device == "cpu" else dim / setting.itemsize


def _exchange(setting: Setting) -> float:
    """Gradients of rows, there and back, and of the hidden layer."""

    def held(trip: Trip) -> float:
        return 2 * trip.sent_rows * trip.width + trip.rows * trip.hidden

    return setting.itemsize * max(
        sum(map(held, trips))
        for stack, kind, _ in mixtures(setting)
        for _, trips in passes_of(setting, stack, kind)
    )
