"""Held-out sets that training does not give away: near-duplicates stay on one side of a split."""

import random
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

# Chinese and Japanese characters count as words: nothing stands between their words.
_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W぀-ヿ㐀-鿿]+")
_DIGITS = re.compile(r"\d+")

_MOST_DROPPED = 2  # words that near-duplicates may differ in, and a third of a short text
_SHARED_RUN = 7  # words in a row that no two texts share by chance
# Longer texts that differ in so few words share such a run in any case.
_LONGEST_COMPARED = (_MOST_DROPPED + 1) * (_SHARED_RUN - 1) + _MOST_DROPPED


class Groups:
    """Which of `count` texts, known by their numbers from 0, belong together."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def of(self, number: int) -> int:
        """The group of a text, named by its first text."""
        above = self._above
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    def unite(self, one: int, other: int) -> None:
        """Make one group of two."""
        first, last = sorted((self.of(one), self.of(other)))
        self._above[last] = first

    def sizes(self) -> Counter[int]:
        """The number of texts in each group."""
        return Counter(map(self.of, range(len(self._above))))


@dataclass(frozen=True)
class HeldOut:
    """The texts of each held-out set, and their near-duplicates, which no set may have."""

    sets: dict[str, list[int]]
    siblings: frozenset[int]


def words_of(text: str) -> list[str]:
    """The words that texts are compared by: without case, punctuation, and values of numbers."""
    return _WORD.findall(_DIGITS.sub("0", text.lower()))


def unite_near_duplicates(groups: Groups, texts: Sequence[str]) -> None:
    """Unite texts that differ in up to two words, or that share seven words in a row.

    In a short text, a third of the words may differ. Near-duplicates of near-duplicates belong
    together too, so that the instances of a template are one group.
    """
    ids: dict[str, int] = {}
    keys, owners = array("q"), array("q")
    for number, text in enumerate(texts):
        words = [ids.setdefault(word, len(ids)) for word in words_of(text)]
        # Python's hash of numbers, unlike that of strings, is the same in every process.
        keys.extend(map(hash, _keys(words)))
        owners.extend([number] * (len(keys) - len(owners)))
    _unite_equal(groups, np.asarray(keys), np.asarray(owners))


def unite_equal(groups: Groups, texts: Iterable[tuple[int, str]]) -> None:
    """Unite the numbers whose texts have the same words, such as two sources of one translation."""
    first: dict[tuple[str, ...], int] = {}
    for number, text in texts:
        if words := tuple(words_of(text)):
            groups.unite(number, first.setdefault(words, number))


def hold_out(
    groups: Groups,
    candidates: Sequence[int],
    wanted: Mapping[str, int],
    *,
    seed: int,
    largest_group: int,
) -> HeldOut:
    """Draw the texts of held-out sets, one of a group: the first of its candidates.

    Larger groups, those of templates, are for training. Sets that cannot be filled come out
    smaller.
    """
    sizes = groups.sizes()
    first_of: dict[int, int] = {}
    for number in candidates:
        if sizes[groups.of(number)] <= largest_group:
            first_of.setdefault(groups.of(number), number)
    drawn = sorted(first_of.values())
    random.Random(seed).shuffle(drawn)
    sets = {}
    for name, size in wanted.items():
        sets[name], drawn = sorted(drawn[:size]), drawn[size:]
    taken = {number for one in sets.values() for number in one}
    held = {groups.of(number) for number in taken}
    members = (number for number in range(sizes.total()) if groups.of(number) in held)
    return HeldOut(sets, frozenset(members) - taken)


def _keys(words: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """What two near-duplicates have in common: the text with some words dropped, or a run."""
    if len(words) <= _LONGEST_COMPARED:
        for dropped in range(min(_MOST_DROPPED, len(words) // 3) + 1):
            yield from combinations(words, len(words) - dropped)
    for start in range(len(words) - _SHARED_RUN + 1):
        yield (-1, *words[start : start + _SHARED_RUN])


def _unite_equal(groups: Groups, keys: np.ndarray, owners: np.ndarray) -> None:
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    same = np.flatnonzero((keys[1:] == keys[:-1]) & (owners[1:] != owners[:-1]))
    for one, other in zip(owners[same].tolist(), owners[same + 1].tolist(), strict=True):
        groups.unite(one, other)
