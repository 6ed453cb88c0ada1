"""Test sets of a corpus, direction by direction, and their translations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.binarised import (
    UNKNOWN,
    binarised_names,
    count_binarised,
    is_binarised,
    read_binarised,
)
from user_dir.text.corpus import side_name
from user_dir.text.lines import decode_lines, read_parallel, written_lines
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.segmentation import Segmentation, load_segmentation
from user_dir.text.subwords import Subwords


@dataclass(frozen=True)
class TestSet:
    """Source and reference of one direction, line by line."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    direction: Pair
    sources: list[str]
    references: list[str]
    num_unknown: int = 0  # pieces of the references that no dictionary has
    more_references: Sequence[list[str]] = ()

    @property
    def all_references(self) -> list[list[str]]:
        """Every set of them, line by line."""
        return [self.references, *self.more_references]


@dataclass(frozen=True)
class Translated:
    """A test set and its translation."""

    test_set: TestSet
    translations: list[str]


def read_test_set(corpus: Path, subset: str, direction: Pair) -> TestSet:
    """Read one direction from the raw text of a prepared corpus, or from fairseq's own folder.

    Raises `CorpusError`, naming the file, if it is not there or damaged.
    """
    stored = _stored_pair(corpus, subset, direction)
    if stored is None:
        raise CorpusError(
            f"{_place(corpus)} has no {subset} set for {direction} "
            f"({side_name(subset, direction, 'LANGUAGE')}, in either order of the languages); "
            "name directions that the corpus was prepared for"
        )
    names = [side_name(subset, stored, language) for language in direction.languages]
    if not _is_binarised(corpus):
        paths = [corpus / "raw" / name for name in names]
        paths += _further_references(corpus, subset, direction)
        sources, references, *more = read_parallel(paths)
        return TestSet(direction, sources, references, more_references=more)
    segmentation = load_segmentation(corpus)
    source, target = (list(read_binarised(corpus, name)) for name in names)
    if len(source) != len(target):
        raise CorpusError(
            f"{corpus}: {names[0]} has {len(source)} sentences but {names[1]} has {len(target)}; "
            "binarise them again"
        )
    return TestSet(
        direction,
        [segmentation.decode(line) for line in source],
        [segmentation.decode(_without_unknown(line)) for line in target],
        num_unknown=sum(line.split(" ").count(UNKNOWN) for line in target),
    )


def read_source_pieces(
    corpus: Path, subset: str, direction: Pair, segmentation: Segmentation
) -> list[str]:
    """The source side of a test set as a model reads it; `segmentation` is the corpus's."""
    if isinstance(segmentation, Subwords):
        return segmentation.encode(read_test_set(corpus, subset, direction).sources)
    # Who cut this text did so elsewhere: its pieces are in the binarised data alone.
    stored = _stored_pair(corpus, subset, direction)
    assert stored is not None
    return list(read_binarised(data_folder(corpus), side_name(subset, stored, direction.source)))


def data_folder(corpus: Path) -> Path:
    """The binarised data of a prepared corpus, or fairseq's own folder."""
    return corpus if _is_binarised(corpus) else corpus / "bin"


def directions_of(corpus: Path, subset: str) -> list[Pair]:
    """Every direction that a corpus has such a set for, by the names of its files."""
    found: dict[Pair, None] = {}
    for name in _names(corpus):
        try:
            (stored,) = parse_directions(name.split(".")[1])
        except (IndexError, CorpusError):
            continue
        if name == side_name(subset, stored, stored.source):
            found.update({stored: None, stored.reversed(): None})
    return list(found)


def count_train_pairs(corpus: Path, direction: Pair) -> int | None:
    """The training pairs of a direction; None where they are gone."""
    stored = _stored_pair(corpus, "train", direction)
    if stored is None:
        return None
    name = side_name("train", stored, direction.source)
    if _is_binarised(corpus):
        return count_binarised(corpus, name)
    with (corpus / "raw" / name).open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def translation_name(subset: str, direction: Pair) -> str:
    """The file name of one direction's translation, such as test.en-de.de."""
    return side_name(subset, direction, direction.target)


def reference_name(subset: str, direction: Pair, number: int) -> str:
    """The file name of a further reference, from the second on, such as test.en-de.de.ref2."""
    return f"{translation_name(subset, direction)}.ref{number}"


def documents_name(subset: str) -> str:
    """The file name of what says of each line which document it is from."""
    return f"{subset}.documents"


def read_documents(corpus: Path, subset: str) -> list[str] | None:
    """The document of each line of a set; None where nothing says."""
    path = corpus / "raw" / documents_name(subset)
    return list(written_lines(path)) if path.is_file() else None


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


def _further_references(corpus: Path, subset: str, direction: Pair) -> list[Path]:
    paths = (corpus / "raw" / reference_name(subset, direction, number) for number in count(2))
    return list(takewhile(Path.is_file, paths))


def _is_binarised(corpus: Path) -> bool:
    """Whether it is fairseq's own folder, without raw text."""
    return not (corpus / "raw").is_dir() and is_binarised(corpus)


def _place(corpus: Path) -> Path:
    return corpus if _is_binarised(corpus) else corpus / "raw"


def _names(corpus: Path) -> list[str]:
    """The names of a corpus's texts, such as test.en-de.en."""
    if _is_binarised(corpus):
        return binarised_names(corpus)
    raw = corpus / "raw"
    return [path.name for path in raw.iterdir()] if raw.is_dir() else []


def _stored_pair(corpus: Path, subset: str, direction: Pair) -> Pair | None:
    """Under which order of the languages a set is stored; None if it is under neither."""
    names = {*_names(corpus)}
    for stored in direction, direction.reversed():
        if any(side_name(subset, stored, language) in names for language in stored.languages):
            return stored
    return None


def _without_unknown(line: str) -> str:
    """A reference without the sign that a translation has for unknown pieces; fairseq's own."""
    return " ".join(f"<{UNKNOWN}>" if piece == UNKNOWN else piece for piece in line.split(" "))
