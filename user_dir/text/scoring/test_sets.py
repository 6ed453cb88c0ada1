"""Test sets of a prepared corpus, direction by direction, and their translations."""

from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.corpus import side_name
from user_dir.text.lines import decode_lines, read_parallel
from user_dir.text.pairs import Pair, parse_directions


@dataclass(frozen=True)
class TestSet:
    """Source and reference of one direction, line by line."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    direction: Pair
    sources: list[str]
    references: list[str]


@dataclass(frozen=True)
class Translated:
    """A test set and its translation."""

    test_set: TestSet
    translations: list[str]


def read_test_set(corpus: Path, subset: str, direction: Pair) -> TestSet:
    """Read one direction from the raw text of a prepared corpus.

    Raises `CorpusError`, naming the file, if it is not there or damaged.
    """
    raw = corpus / "raw"
    for stored in direction, direction.reversed():
        paths = [raw / side_name(subset, stored, language) for language in direction.languages]
        if any(path.exists() for path in paths):
            return TestSet(direction, *read_parallel(paths))
    raise CorpusError(
        f"{raw} has no {subset} set for {direction} ({side_name(subset, direction, 'LANGUAGE')}, "
        "in either order of the languages); name directions that the corpus was prepared for"
    )


def directions_of(corpus: Path, subset: str) -> list[Pair]:
    """Every direction that a prepared corpus has such a set for, by the names of its raw text."""
    raw = corpus / "raw"
    found: dict[Pair, None] = {}
    for path in raw.iterdir() if raw.is_dir() else ():
        try:
            (stored,) = parse_directions(path.name.split(".")[1])
        except (IndexError, CorpusError):
            continue
        if path.name == side_name(subset, stored, stored.source):
            found.update({stored: None, stored.reversed(): None})
    return list(found)


def count_train_pairs(corpus: Path, direction: Pair) -> int | None:
    """The training pairs of a direction, by the lines of the raw text; None where it is gone."""
    for stored in direction, direction.reversed():
        path = corpus / "raw" / side_name("train", stored, direction.source)
        if path.exists():
            with path.open("rb") as file:
                return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return None


def translation_name(subset: str, direction: Pair) -> str:
    """The file name of one direction's translation, such as test.en-de.de."""
    return side_name(subset, direction, direction.target)


def read_translated(folder: Path, subset: str, test_set: TestSet) -> Translated | None:
    """Read one direction's translation; None if there is none yet.

    Raises `CorpusError` if it is no UTF-8 or has another number of lines than the test set.
    """
    path = folder / translation_name(subset, test_set.direction)
    if not path.exists():
        return None
    # A translation may be empty. Another program may have put other white space into it.
    anew = "remove the file to translate it anew"
    lines = list(decode_lines(path.read_bytes(), name=str(path), cure=anew))
    if len(lines) != len(test_set.references):
        raise CorpusError(
            f"{path} has {len(lines)} lines, but the {subset} set of {test_set.direction} has "
            f"{len(test_set.references)}; {anew}"
        )
    return Translated(test_set, lines)
