"""The corpora of fairseq's recipe for WMT'14 English-French, and how they are read."""

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, BinaryIO, cast

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.parallel_lines import (
    CleanPairs,
    PairWriter,
    RawLines,
    clean_pairs,
    read_aligned,
)
from user_dir.text.large.worker_pool import map_in_order
from user_dir.text.lines import clean_line, is_readable, write_lines
from user_dir.text.sources.archives import open_member
from user_dir.text.sources.moses import moses_normaliser

LANGUAGES = "en", "fr"
_PROGRESS_LINES = 1_000_000
_SEGMENT = re.compile(r"<seg id=[^>]*>(.*)</seg>", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """An archive of the recipe; `members` are its English and its French file."""

    name: str
    url: str
    members: tuple[str, str]

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[1]


def _training(name: str, url: str, stem: str, suffix: str = "") -> Source:
    return Source(name, url, (f"{stem}.en{suffix}", f"{stem}.fr{suffix}"))


# In the recipe's order: every 1333rd line of all of them together is for validation.
CORPORA = (
    _training(
        "europarl",
        "http://statmt.org/wmt13/training-parallel-europarl-v7.tgz",
        "training/europarl-v7.fr-en",
    ),
    _training(
        "commoncrawl",
        "http://statmt.org/wmt13/training-parallel-commoncrawl.tgz",
        "commoncrawl.fr-en",
    ),
    _training("un", "http://statmt.org/wmt13/training-parallel-un.tgz", "un/undoc.2000.fr-en"),
    _training(
        "news-commentary",
        "http://statmt.org/wmt14/training-parallel-nc-v9.tgz",
        "training/news-commentary-v9.fr-en",
    ),
    _training(
        "giga",
        "http://statmt.org/wmt10/training-giga-fren.tar",
        "giga-fren.release2.fixed",
        ".gz",
    ),
)
TEST = Source(
    "newstest2014",
    "http://statmt.org/wmt14/test-full.tgz",
    ("test-full/newstest2014-fren-src.en.sgm", "test-full/newstest2014-fren-ref.fr.sgm"),
)


def chosen_corpora(names: str) -> list[Source]:
    """The corpora of a list such as "europarl,un", in the recipe's order."""
    known = {one.name: one for one in CORPORA}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise CorpusError(
            f'--corpora ({names}): "{unknown[0]}" is unknown; there are {", ".join(known)}'
        )
    return [one for one in CORPORA if one.name in wanted]


def locate(folder: Path, source: Source) -> Path:
    """The source's archive in the folder, or the folder itself if it is unpacked there.

    Raises `CorpusError` if it is neither.
    """
    if (folder / source.archive).is_file():
        return folder / source.archive
    if all(_unpacked(folder, member) is not None for member in source.members):
        return folder
    raise CorpusError(
        f"{folder} has no {source.archive}, nor {source.members[0]} and {source.members[1]}; "
        "--download gets what is missing"
    )


def input_files(place: Path, source: Source) -> list[Path]:
    """The files that `locate` has found."""
    if place.is_file():
        return [place]
    return [path for member in source.members if (path := _unpacked(place, member)) is not None]


@contextmanager
def _open_text(place: Path, member: str) -> Iterator[BinaryIO]:
    if place.is_file():
        with open_member(place, member) as file:
            yield file
        return
    path = _unpacked(place, member)
    assert path is not None
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield cast(BinaryIO, file)


def _unpacked(folder: Path, member: str) -> Path | None:
    # The recipe unpacks the inner gzip files as well.
    for name in (member, member.removesuffix(".gz")):
        if (folder / name).is_file():
            return folder / name
    return None


def write_training_text(
    place: Path,
    source: Source,
    files: dict[str, TextPair],
    *,
    lines_before: int,
    valid_every: int,
    workers: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Read one corpus from both of its streams at once, clean it, and divide it.

    `lines_before` are those of the earlier corpora: every `valid_every`-th line of all of them
    together goes to validation. Returns counts.
    """
    dropped: Counter[str] = Counter()
    num_read = 0
    with ExitStack() as stack:
        streams = [stack.enter_context(_open_text(place, member)) for member in source.members]
        writers = {
            split: stack.enter_context(PairWriter(*pair.files)) for split, pair in files.items()
        }
        chunks = read_aligned(streams[0], streams[1], names=_names(place, source))
        results = stack.enter_context(closing(map_in_order(_clean, chunks, workers=workers)))
        for cleaned in results:
            before = num_read
            num_read += cleaned.num_read
            dropped.update(cleaned.dropped)
            for number, english, french in cleaned.pairs:
                is_valid = (lines_before + number + 1) % valid_every == 0
                writers["valid" if is_valid else "train"].write(english, french)
            if before // _PROGRESS_LINES < num_read // _PROGRESS_LINES:
                tell(f"  {source.name}: {num_read:,} lines")
        lines = {split: writer.num_lines for split, writer in writers.items()}
    return {"read": num_read, "lines": lines, "dropped": dict(dropped)}


def _names(place: Path, source: Source) -> tuple[str, str]:
    if place.is_file():
        return f"{place}: {source.members[0]}", f"{place}: {source.members[1]}"
    return str(place / source.members[0]), str(place / source.members[1])


def _clean(lines: RawLines) -> CleanPairs:
    normalise = moses_normaliser(LANGUAGES[0]), moses_normaliser(LANGUAGES[1])
    return clean_pairs(lines, normalise=normalise)


def write_test_text(place: Path, files: TextPair) -> int:
    """Write newstest2014 as the recipe reads it; returns the number of sentences."""
    sides = []
    for member in TEST.members:
        with _open_text(place, member) as file:
            sides.append(_segments(file.read(), f"{place}: {member}"))
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise CorpusError(
            f"{place}: {TEST.members[0]} has {len(sides[0])} sentences but {TEST.members[1]} has "
            f"{len(sides[1])}; get the archive again"
        )
    for path, side in zip(files.files, sides, strict=True):
        write_lines(path, side)
    return len(sides[0])


def _segments(data: bytes, name: str) -> list[str]:
    try:
        found = _SEGMENT.findall(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name}: not valid UTF-8 ({error}); get the file again") from None
    # The only normalisation that the recipe applies to the test set.
    lines = [clean_line(unescape(text).replace("’", "'")) for text in found]
    for number, line in enumerate(lines, start=1):
        if not is_readable(line):
            raise CorpusError(f"{name}, sentence {number}: empty; get the file again")
    return lines
