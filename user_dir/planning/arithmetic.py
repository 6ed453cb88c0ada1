"""What a rank computes: operations of matrix products, and bytes that pass the memory beside them.

A multiply-add counts as two operations. Everything is of a forward pass; a backward pass does twice
as much of both. Bytes are counted for what is long: one reading or writing of a tensor is a pass.
"""

from dataclasses import dataclass

from user_dir.fast_moe.config import LayerKind
from user_dir.planning.setting import Setting, Stack, mixtures
from user_dir.planning.traffic import Trip
from user_dir.transformer.layer_order import DenseLayer

# Passes over a tensor of the tokens' width, or of another one where that is said.
_NORM_AND_RESIDUAL = 8  # norm: read, write; dropout: read, write, its mask; residual: two read, one
_QUERIES = 8  # three products written, rearranged and read
_SCORES = 6  # over the scores: product, mask, softmax and dropout written and read
_ACTIVATION = 4  # over the hidden layer: product written, activation in place, read
_GATHER = 2  # over the rows: read and written
_LOSS = 8  # over the float32 scores of the vocabulary: product, softmax, smoothing


@dataclass(frozen=True)
class Work:
    """Operations, and bytes that are read or written."""

    operations: float
    num_bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.num_bytes + other.num_bytes)

    def times(self, factor: float) -> "Work":
        return Work(self.operations * factor, self.num_bytes * factor)


NO_WORK = Work(0, 0)


def dense_work(setting: Setting, stack: Stack) -> tuple[Work, Work]:
    """Attention of a stack, and its dense feed-forward layers."""
    layers = stack.order.layers
    attention = _attention(setting, stack, keys=stack.dim)
    if stack.name == "decoder":
        attention += _attention(setting, stack, keys=setting.encoder.dim)
    num_dense = layers.count(DenseLayer.FULL) + bool(stack.order.tail)
    hidden = ffn_work(stack.dim, stack.hidden_dim, setting.tokens, setting.itemsize)
    feed_forward = hidden + _beside(setting, stack)
    return attention.times(len(layers)), feed_forward.times(num_dense)


def output_work(setting: Setting) -> Work:
    """Scores of the target vocabulary, and the loss."""
    scores = setting.tokens * setting.target_vocabulary
    return Work(2 * scores * setting.decoder.dim, _LOSS * 4 * scores)


def trip_work(trip: Trip, itemsize: int) -> Work:
    """The experts' products for one trip, and the copies of rows that go with it."""
    copies = _GATHER * (trip.sent_rows + trip.choices * trip.tokens) * trip.width * itemsize
    return ffn_work(trip.width, trip.hidden, trip.rows, itemsize) + Work(0, copies)


def around_work(setting: Setting, stack: Stack, kind: LayerKind) -> Work:
    """The gate of a mixture, its norm and residual."""
    config, tokens = setting.config, setting.tokens
    products = stack.dim * config.num_experts
    if kind is LayerKind.FEAT and config.feat_projection:
        products += 2 * stack.dim * stack.dim
    if kind is LayerKind.BOTTLENECK:
        products += 2 * stack.dim * setting.exchange_dim
    probabilities = _SCORES * 4 * tokens * config.num_experts
    work = Work(2 * products * tokens, probabilities) + _beside(setting, stack)
    shared = setting.shared_hidden_dim(stack) if kind is not LayerKind.CLUSTER else 0
    return work + ffn_work(stack.dim, shared, tokens, setting.itemsize) if shared else work


def ffn_work(width: int, hidden: int, rows: float, itemsize: int) -> Work:
    """Two linear maps with an activation between them."""
    passes = _ACTIVATION * hidden + _GATHER * width
    return Work(4 * rows * width * hidden, passes * rows * itemsize)


def recomputed_layers(setting: Setting) -> Work:
    """The forward pass of all layers but their trips: what recomputation does again."""
    work = NO_WORK
    for stack in setting.stacks:
        attention, feed_forward = dense_work(setting, stack)
        work += attention + feed_forward
    for stack, kind, _ in mixtures(setting):
        work += around_work(setting, stack, kind)
    return work


def _attention(setting: Setting, stack: Stack, *, keys: int) -> Work:
    tokens, length, dim = setting.tokens, setting.sentence_length, stack.dim
    projections = 2 * tokens * (2 * dim * dim + 2 * keys * dim)
    scores = stack.num_heads * tokens * length
    passes = _QUERIES * tokens * dim + _SCORES * scores
    work = Work(projections + 4 * tokens * length * dim, passes * setting.itemsize)
    return work + _beside(setting, stack)


def _beside(setting: Setting, stack: Stack) -> Work:
    return Work(0, _NORM_AND_RESIDUAL * setting.tokens * stack.dim * setting.itemsize)
