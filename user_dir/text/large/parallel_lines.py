"""Two texts line by line, without ever holding more of them than a few thousand lines."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.lines import decode_line, encoding_message, is_readable

LINES_AT_ONCE = 5000


@dataclass(frozen=True)
class RawLines:
    """Some lines of both texts as they were read; `first` is the number of the first, from 0."""

    first: int
    sides: tuple[list[bytes], list[bytes]]


@dataclass(frozen=True)
class CleanPairs:
    """What cleaning left: (line number from 0, source, target), and why the others went."""

    num_read: int
    pairs: list[tuple[int, str, str]]
    dropped: Counter[str]


def read_aligned(
    source: Iterable[bytes], target: Iterable[bytes], *, names: tuple[str, str]
) -> Iterator[RawLines]:
    """Both texts in step; `CorpusError` if one of them is longer or damaged."""
    first = 0
    texts = iter(source), iter(target)
    while True:
        sides = [_some_lines(text, name, first) for text, name in zip(texts, names, strict=True)]
        if len(sides[0]) != len(sides[1]):
            counts = [
                first + len(side) + sum(1 for _ in text)
                for side, text in zip(sides, texts, strict=True)
            ]
            raise CorpusError(
                f"{names[0]} has {counts[0]} lines but {names[1]} has {counts[1]}; line N of both "
                "must be the same sentence: mend the files or get them again"
            )
        if not sides[0]:
            return
        yield RawLines(first, (sides[0], sides[1]))
        first += len(sides[0])


def in_chunks(rows: Iterator[tuple[bytes, bytes]], *, first: int = 0) -> Iterator[RawLines]:
    """Pairs as `read_aligned` gives them; `first` is the number of the first, from 0."""
    while some := list(islice(rows, LINES_AT_ONCE)):
        source, target = map(list, zip(*some, strict=True))
        yield RawLines(first, (source, target))
        first += len(some)


def clean_pairs(
    lines: RawLines,
    *,
    normalise: tuple[Callable[[str], str], Callable[[str], str]] | None = None,
    names: tuple[str, str] | None = None,
) -> CleanPairs:
    """Decode and clean both sides, and drop a pair with a side that holds nothing readable.

    One that is not UTF-8 is dropped too; with the sides' `names` a `CorpusError` tells of it.
    """
    pairs = []
    dropped: Counter[str] = Counter()
    for number, raw in enumerate(zip(*lines.sides, strict=True), start=lines.first):
        try:
            text = [decode_line(side) for side in raw]
        except UnicodeDecodeError as error:
            if names is not None:
                name = names[error.object != raw[0]]
                raise CorpusError(encoding_message(error, name=name, number=number + 1)) from None
            dropped["not UTF-8"] += 1
            continue
        if normalise is not None:
            text = [apply(side) for apply, side in zip(normalise, text, strict=True)]
        if not all(map(is_readable, text)):
            dropped["empty"] += 1
            continue
        pairs.append((number, text[0], text[1]))
    return CleanPairs(len(lines.sides[0]), pairs, dropped)


class PairWriter:
    """Two text files that grow line by line together."""

    def __init__(self, source: Path, target: Path) -> None:
        self.num_lines = 0
        self._closing = ExitStack()
        self._files = []
        for path in (source, target):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w", encoding="utf-8", newline="\n")
            self._files.append(self._closing.enter_context(file))

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def write(self, source: str, target: str) -> None:
        """Add a line to each file."""
        for file, line in zip(self._files, (source, target), strict=True):
            file.write(line + "\n")
        self.num_lines += 1


def _some_lines(text: Iterator[bytes], name: str, first: int) -> list[bytes]:
    try:
        return list(islice(text, LINES_AT_ONCE))
    # tarfile's errors are OSErrors too; a full disk is no damage, but nothing is written here.
    except (EOFError, OSError, zlib.error) as error:
        raise CorpusError(
            f"{name}: damaged, unreadable from line {first + 1} on or soon after ({error}); get "
            "the file again"
        ) from None
