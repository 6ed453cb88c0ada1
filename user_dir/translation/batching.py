"""Lines of pieces in batches of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# With several processes, this many batches each: they finish at about the same time.
_BATCHES_PER_PROCESS = 4


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold.

    Args:
        max_tokens: most pieces, padding and ends of sentences included; a longer line is alone.
        batch_size: most lines.
        equal_lengths: whether all lines must have the same number of pieces.
        processes: how many share the batches.
    """

    max_tokens: int
    batch_size: int | None = None
    equal_lengths: bool = False
    processes: int = 1


def make_batches(lines: Sequence[str], limits: BatchLimits) -> Iterator[list[int]]:
    """Yield the indices of the lines that are not empty, batch by batch, longest lines first.

    Lines are pieces with spaces between. All lengths are taken before the first batch comes.
    """
    lengths = [line.count(" ") + 2 if line else 0 for line in lines]
    max_tokens = limits.max_tokens
    if limits.processes > 1:
        max_tokens = min(max_tokens, sum(lengths) // (limits.processes * _BATCHES_PER_PROCESS))
    batch: list[int] = []
    for index in sorted(filter(lengths.__getitem__, range(len(lines))), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else 0
        is_full = (
            (len(batch) + 1) * longest > max_tokens
            or len(batch) == limits.batch_size
            or (limits.equal_lengths and lengths[index] != longest)
        )
        if batch and is_full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
