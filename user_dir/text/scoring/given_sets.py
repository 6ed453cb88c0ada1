"""Test sets that are named with `--test-set`: files of one direction, FLORES-200, NTREX-128."""

import argparse
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.corpus import side_name
from user_dir.text.lines import read_parallel, write_lines
from user_dir.text.pairs import Pair
from user_dir.text.scoring.language_codes import files_in_language
from user_dir.text.scoring.test_sets import TestSet, documents_name, reference_name

# How the published folders call their parts.
_FLORES = {"test": "devtest", "valid": "dev"}
_NTREX = re.compile(r"newstest2019-(src|ref)(?:-(\d))?\.(.+)\.txt")


@dataclass(frozen=True)
class GivenSet:
    """What `--test-set NAME=PLACES` names: a source and its references, or a folder."""

    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class ReadSet:
    """A given set for the directions that it has; `documents` says of each line what it is from."""

    test_sets: tuple[TestSet, ...]
    documents: Sequence[str] | None

    def digest(self) -> str:
        """What tells it from any other."""
        content = repr([self.test_sets, self.documents]).encode()
        return hashlib.sha256(content).hexdigest()

    def write(self, name: str, corpus: Path) -> None:
        """Keep it as a corpus that has nothing else, so that it can be scored again."""
        raw = corpus / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for one in self.test_sets:
            source, target = one.direction.languages
            write_lines(raw / side_name(name, one.direction, source), one.sources)
            write_lines(raw / side_name(name, one.direction, target), one.references)
            for number, lines in enumerate(one.more_references, start=2):
                write_lines(raw / reference_name(name, one.direction, number), lines)
        if self.documents is not None:
            write_lines(raw / documents_name(name), self.documents)


def given_set(text: str) -> GivenSet:
    """A type for argparse: NAME=SOURCE,REFERENCE[,REFERENCE …] or NAME=FOLDER."""
    name, _, places = text.partition("=")
    # What is called so exists, whatever commas it has.
    paths = [places] if Path(places).exists() else places.split(",")
    if not re.fullmatch(r"\w+", name, re.ASCII) or not all(paths):
        raise argparse.ArgumentTypeError(
            f"must be NAME=SOURCE,REFERENCE or NAME=FOLDER, with a name of letters and digits, not "
            f"{text!a}"
        )
    return GivenSet(name, tuple(map(Path, paths)))


def read_given_set(
    given: GivenSet, directions: Sequence[Pair], *, subset: str, all_of_them: bool
) -> ReadSet:
    """Read the directions of a given set.

    Args:
        directions: files must be of one of them, a folder may lack some.
        subset: "test" or "valid", of a folder that has both.
        all_of_them: whether a folder must have every direction.

    Raises:
        CorpusError: something is missing, or of another length; the message names the file.
    """
    if len(given.paths) > 1:
        if len(directions) > 1:
            raise CorpusError(
                f"--test-set {given.name}: two files are of one direction, but the checkpoint has "
                f"{len(directions)}; name theirs with --directions"
            )
        sources, references, *more = read_parallel(given.paths)
        return ReadSet((TestSet(directions[0], sources, references, more_references=more),), None)
    (folder,) = given.paths
    if not folder.is_dir():
        raise CorpusError(
            f"--test-set {given.name} ({folder}): no such folder; for files, name the reference "
            "after a comma"
        )
    files, document_file = _published_files(folder, subset)
    if not files:
        raise CorpusError(
            f"--test-set {given.name} ({folder}): neither FLORES-200 (devtest/eng_Latn.devtest) "
            "nor NTREX-128 (newstest2019-src.eng.txt); name files instead: SOURCE,REFERENCE"
        )
    found = [
        one for one in directions if all(files_in_language(name, files) for name in one.languages)
    ]
    missing = [str(one) for one in directions if one not in found]
    if not found or (missing and all_of_them):
        raise CorpusError(
            f"--test-set {given.name} ({folder}) has not both languages of {', '.join(missing)}"
        )
    test_sets = tuple(_read_published(given, one, files) for one in found)
    documents = None
    if document_file is not None:
        documents = _read_documents(document_file, len(test_sets[0].sources))
    return ReadSet(test_sets, documents)


def _published_files(folder: Path, subset: str) -> tuple[dict[str, list[Path]], Path | None]:
    """The files of each language, first references first; and what says which document."""
    part = _FLORES[subset]
    for place in folder / part, folder:
        if flores := sorted(place.glob(f"*.{part}")):
            metadata = [one / f"metadata_{part}.tsv" for one in (folder, folder.parent)]
            return {path.stem: [path] for path in flores}, _first_file(metadata)
    for place in folder / "NTREX-128", folder:
        names = {path: _NTREX.fullmatch(path.name) for path in place.glob("newstest2019-*.txt")}
        # A first reference has no number, so it comes before its second.
        found = sorted((m[3], m[2] or "", path) for path, m in names.items() if m)
        if found:
            break
    files: dict[str, list[Path]] = {}
    for code, _, path in found:
        files.setdefault(code, []).append(path)
    return files, _first_file([one / "DOCUMENT_IDS.tsv" for one in (folder, folder.parent)])


def _first_file(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _read_published(
    given: GivenSet, direction: Pair, files: Mapping[str, Sequence[Path]]
) -> TestSet:
    sides = []
    for language in direction.languages:
        codes = files_in_language(language, files)
        if len(codes) > 1:
            raise CorpusError(
                f"--test-set {given.name}: {language} may be {' or '.join(codes)}; name the files "
                "of one direction instead: SOURCE,REFERENCE"
            )
        sides.append(files[codes[0]])
    source, target = sides
    sources, references, *more = read_parallel([source[0], *target])
    return TestSet(direction, sources, references, more_references=more)


def _read_documents(path: Path, num_lines: int) -> list[str]:
    """The first column of a table that has a line for each sentence, and a header or none."""
    rows = [row.split("\t")[0] for row in path.read_text(encoding="utf-8").splitlines()]
    if len(rows) == num_lines + 1:
        rows = rows[1:]
    if len(rows) != num_lines:
        raise CorpusError(f"{path} has {len(rows)} lines, but the texts have {num_lines}")
    return rows
