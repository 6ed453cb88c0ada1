"""Sets that are held out of a text: always the same sentences, drawn in one pass."""

import heapq
from collections.abc import Iterable, Mapping

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.parallel_lines import PairWriter
from user_dir.text.large.sentence_hashes import sentence_hash
from user_dir.text.pairs import Pair

# What may be drawn for one is never drawn for the other, in whatever pair.
_SPLITS = ("valid", "test")


class _Smallest:
    """The sentences with the smallest hashes, each once, in its first translation."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: dict[int, tuple[str, str]] = {}
        self._largest_first: list[int] = []

    def offer(self, key: int, sides: tuple[str, str]) -> None:
        """Keep the pair if its key is new and among the smallest so far."""
        if key in self.pairs:
            return
        if len(self.pairs) < self.size:
            heapq.heappush(self._largest_first, -key)
        elif key < -self._largest_first[0]:
            del self.pairs[-heapq.heapreplace(self._largest_first, -key)]
        else:
            return
        self.pairs[key] = sides


def write_held_out(
    sentences: Iterable[tuple[str, str]],
    pair: Pair,
    sizes: Mapping[str, int],
    outputs: Mapping[str, TextPair],
) -> set[int]:
    """Write so many different source sentences of each split; returns the hashes of both sides.

    A sentence's hash alone says for which split it may be drawn and how early, so that pairs
    with a common language draw the same ones, where both have them. Memory grows with the sizes
    alone.

    Raises:
        CorpusError: there are too few different sentences.
    """
    drawn = {split: _Smallest(size) for split, size in sizes.items()}
    for sides in sentences:
        key = sentence_hash(pair.source, sides[0])
        if smallest := drawn.get(_SPLITS[key % len(_SPLITS)]):
            smallest.offer(key, sides)
    hashes: set[int] = set()
    for split, size in sizes.items():
        found = len(drawn[split].pairs)
        if found < size:
            raise CorpusError(
                f"--{split}-lines ({size}): {pair} has too few different sentences to hold out so "
                f"many; ask for fewer than {found + 1}, or name a --{split} set"
            )
        with PairWriter(*outputs[split].files) as writer:
            for _, sides in sorted(drawn[split].pairs.items()):
                writer.write(*sides)
                hashes.update(map(sentence_hash, pair.languages, sides))
    return hashes
