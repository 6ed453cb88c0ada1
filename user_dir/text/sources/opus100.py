"""OPUS-100 v1.0 as it is published: finding and unpacking its language pairs."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.archives import copy_stream, each_file
from user_dir.text.sources.formats.two_files import TwoFiles

# fairseq's names of the splits and OPUS-100's.
SPLITS = {"train": "train", "valid": "dev", "test": "test"}

_SUPERVISED = (".", "supervised", "v1.0/supervised", "opus-100-corpus/v1.0/supervised")
_MEMBER = re.compile(
    r"(?:.*/)?supervised/(?P<pair>[^/]+)/opus\.(?P=pair)-(?:train|dev|test)\.[^./-]+"
)


def find_supervised(folder: Path) -> Path:
    """The folder that holds the pairs' folders; `CorpusError` if there is none."""
    for name in _SUPERVISED:
        if any((folder / name).glob("*-*/opus.*-train.*")):
            return folder / name
    raise CorpusError(
        f"--raw ({folder}) holds no OPUS-100: there is no "
        "opus-100-corpus/v1.0/supervised/A-B/opus.A-B-train.A in it; name the folder in which "
        "the tarball was unpacked"
    )


def unpack(
    tarball: Path, folder: Path, wanted: Collection[str] | None, tell: Callable[[str], None]
) -> int:
    """Unpack the supervised pairs (names such as de-en; None: all); returns how many.

    Reads the tarball as a stream to its end, so that damage anywhere in it is noticed.
    """
    seen: set[str] = set()
    for name, file in each_file(tarball):
        match = _MEMBER.fullmatch(name)
        if match is None or (wanted is not None and match["pair"] not in wanted):
            continue
        if match["pair"] not in seen:
            seen.add(match["pair"])
            tell(f"  {match['pair']} [{len(seen)}]")
        target = folder / match["pair"] / name.rsplit("/", 1)[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_stream(file, target, tarball)
    if not seen:
        raise CorpusError(
            f"--tarball ({tarball}) holds none of the wanted pairs below supervised/; is it "
            "opus-100-corpus-v1.0.tar.gz?"
        )
    return len(seen)


def published_pairs(supervised: Path) -> list[Pair]:
    """Every pair in the folder, by its published name, sorted."""
    names = sorted(path.parent.name for path in supervised.glob("*-*/opus.*-train.*"))
    return parse_directions(",".join(dict.fromkeys(names)), flag=str(supervised))


def choose(directions: str, published: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(directions, pairs as published) for "all" or a list such as "en-de,fr-en"."""
    if directions == "all":
        return [one for pair in published for one in _from_english_first(pair)], list(published)
    wanted = parse_directions(directions, flag="--directions")
    for one in wanted:
        if one not in published and one.reversed() not in published:
            raise CorpusError(
                f'--directions ({directions}): the corpus has no "{one}"; it has '
                f"{', '.join(map(str, published))}"
            )
    return wanted, [pair for pair in published if pair in wanted or pair.reversed() in wanted]


def names_of(directions: str) -> set[str] | None:
    """The pair names, in both orders, that a list of directions may be published under."""
    if directions == "all":
        return None
    wanted = parse_directions(directions, flag="--directions")
    return {str(name) for one in wanted for name in (one, one.reversed())}


def texts_of(supervised: Path, pair: Pair) -> dict[str, list[TwoFiles]]:
    """The published text of each split of a pair; not all pairs have validation and test sets.

    Raises `CorpusError` if one of two sides is missing.
    """
    texts = {}
    for split, name in SPLITS.items():
        stem = f"opus.{pair}-{name}"
        source, target = (supervised / str(pair) / f"{stem}.{one}" for one in pair.languages)
        missing = [path for path in (source, target) if not path.is_file()]
        if missing and (len(missing) == 1 or split == "train"):
            raise CorpusError(f"{missing[0]}: no such file, but the pair {pair} needs it")
        texts[split] = [] if missing else [TwoFiles(pair, (source, target))]
    return texts


def _from_english_first(pair: Pair) -> tuple[Pair, Pair]:
    return (pair.reversed(), pair) if pair.target == "en" else (pair, pair.reversed())
