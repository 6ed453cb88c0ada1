"""Cleaned text to pieces, pair by pair, without the pairs that are too long or too unequal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.large.parallel_lines import LINES_AT_ONCE, PairWriter
from user_dir.text.large.worker_pool import map_in_order
from user_dir.text.segmentation import Segmentation, load_segmentation


@dataclass(frozen=True)
class Limits:
    """Which pairs stay, by their numbers of pieces; a side without any never does."""

    most: int | None = None
    ratio: float | None = None

    def keep(self, source: int, target: int) -> bool:
        """Moses' clean-corpus-n: neither side too long, nor one too long for the other."""
        shorter, longer = sorted((source, target))
        if shorter == 0 or (self.most is not None and longer > self.most):
            return False
        return self.ratio is None or longer <= self.ratio * shorter


@dataclass(frozen=True)
class TextPair:
    """The files of both sides of some text."""

    source: Path
    target: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """Both, source first."""
        return self.source, self.target


@dataclass(frozen=True)
class Encoded:
    """Pairs that stay: text and pieces of both sides, and how often each piece occurs."""

    num_read: int
    kept: list[tuple[str, str, str, str]]
    counts: Counter[str]


def encode_files(
    parts: Sequence[TextPair],
    *,
    corpus: Path,
    limits: Limits,
    raw: TextPair,
    pieces: TextPair,
    workers: int = 1,
) -> tuple[int, int, Counter[str]]:
    """Encode cleaned files one after the other into one, as the corpus's folder tells.

    Returns (pairs read, pairs kept, counts of the pieces).
    """
    num_read = 0
    counts: Counter[str] = Counter()
    chunks = (chunk for part in parts for chunk in _chunks(part))
    encode = partial(encode_lines, corpus, limits)
    with (
        PairWriter(*raw.files) as texts,
        PairWriter(*pieces.files) as encoded,
        closing(map_in_order(encode, chunks, workers=workers)) as results,
    ):
        for result in results:
            num_read += result.num_read
            counts.update(result.counts)
            for text_a, text_b, pieces_a, pieces_b in result.kept:
                texts.write(text_a, text_b)
                encoded.write(pieces_a, pieces_b)
        return num_read, texts.num_lines, counts


def encode_lines(corpus: Path, limits: Limits, lines: tuple[list[str], list[str]]) -> Encoded:
    """Encode both sides of some lines and apply the limits."""
    segmentation = _segmentation(corpus)
    kept = []
    counts: Counter[str] = Counter()
    sides = [segmentation.encode(side) for side in lines]
    for text_a, text_b, pieces_a, pieces_b in zip(*lines, *sides, strict=True):
        split = pieces_a.split(), pieces_b.split()
        if limits.keep(len(split[0]), len(split[1])):
            texts = segmentation.text_of(text_a), segmentation.text_of(text_b)
            kept.append((*texts, pieces_a, pieces_b))
            for side in split:
                counts.update(side)
    return Encoded(len(lines[0]), kept, counts)


def write_counts(path: Path, counts: Counter[str]) -> None:
    """Write how often each piece occurs; `read_counts` reads it."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{piece}\t{counts[piece]}\n" for piece in sorted(counts))


def read_counts(path: Path) -> Counter[str]:
    """What `write_counts` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        entries = (line.rstrip("\n").rsplit("\t", 1) for line in file)
        return Counter({piece: int(count) for piece, count in entries})


def _chunks(part: TextPair) -> Iterator[tuple[list[str], list[str]]]:
    with (
        part.source.open(encoding="utf-8", newline="\n") as source,
        part.target.open(encoding="utf-8", newline="\n") as target,
    ):
        while True:
            sides = [
                [line.removesuffix("\n") for line in islice(file, LINES_AT_ONCE)]
                for file in (source, target)
            ]
            if len(sides[0]) != len(sides[1]):
                raise CorpusError(
                    f"{part.source} and {part.target} differ in length; remove the work folder "
                    "that holds them and start again"
                )
            if not sides[0]:
                return
            yield sides[0], sides[1]


@cache
def _segmentation(corpus: Path) -> Segmentation:
    # Once a process: every call of a worker brings the path alone.
    return load_segmentation(corpus)
