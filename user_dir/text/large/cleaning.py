"""From parallel text in whatever form to cleaned lines, with what is held out left out."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.parallel_lines import PairWriter, RawLines, clean_pairs
from user_dir.text.large.sentence_hashes import sentence_hash
from user_dir.text.large.worker_pool import map_in_order
from user_dir.text.pairs import Pair

_PROGRESS_LINES = 1_000_000


class ParallelText(Protocol):
    """Sentences and their translations, in the form in which somebody has them."""

    @property
    def pair(self) -> Pair:
        """The languages, in the order in which they are read."""

    @property
    def files(self) -> Sequence[Path]:
        """What it is read from."""

    @property
    def names(self) -> tuple[str, str]:
        """What messages call the two sides."""

    def read(self) -> Iterator[RawLines]:
        """Some lines at a time; `CorpusError` if the sides differ in length or are damaged."""


def cleaned(
    texts: Sequence[ParallelText],
    pair: Pair,
    *,
    workers: int,
    dropped: Counter[str],
    drop_undecodable: bool,
) -> Generator[tuple[str, str], None, None]:
    """The cleaned sentences of some texts in the pair's order; counts the reasons of the others.

    Bytes that are no UTF-8 are one of these with `drop_undecodable`; else they are a `CorpusError`
    that names file and line.
    """
    for text in texts:
        clean = partial(clean_pairs, names=None if drop_undecodable else text.names)
        with closing(map_in_order(clean, text.read(), workers=workers)) as results:
            for result in results:
                dropped.update(result.dropped)
                for _, source, target in result.pairs:
                    yield (source, target) if text.pair == pair else (target, source)


def write_cleaned(
    texts: Sequence[ParallelText],
    pair: Pair,
    output: TextPair,
    *,
    workers: int,
    held_out: frozenset[int],
    in_tests: frozenset[int],
    drop_test_overlap: bool,
    drop_undecodable: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Clean some texts into one.

    A pair of which a side, in its language, is among the `held_out` sentences (hashes) goes, and
    with `drop_test_overlap` one that is `in_tests`.

    Returns how many lines came out, why others went, and how many pairs were in tests.
    """
    dropped: Counter[str] = Counter()
    test_overlap = 0
    with (
        PairWriter(*output.files) as writer,
        closing(
            cleaned(
                texts, pair, workers=workers, dropped=dropped, drop_undecodable=drop_undecodable
            )
        ) as pairs,
    ):
        for number, sides in enumerate(pairs, start=1):
            if number % _PROGRESS_LINES == 0:
                tell(f"  {pair}: {number:,} lines")
            if held_out or in_tests:
                hashes = set(map(sentence_hash, pair.languages, sides))
                if not held_out.isdisjoint(hashes):
                    dropped["with a held-out sentence"] += 1
                    continue
                if not in_tests.isdisjoint(hashes):
                    test_overlap += 1
                    if drop_test_overlap:
                        continue
            writer.write(*sides)
    if not writer.num_lines:
        reasons = "".join(f"; {count} {reason}" for reason, count in dropped.items())
        raise CorpusError(
            f"{' and '.join(texts[0].names)}: no pair of sentences is left{reasons}; give more text"
        )
    return {"lines": writer.num_lines, "dropped": dict(dropped), "test_overlap": test_overlap}
