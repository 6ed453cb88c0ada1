"""The folder of a run's data, looked at before fairseq does. Imports nothing of fairseq."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from user_dir.errors import CorpusError

_DICTIONARY = re.compile(r"dict\.(.+)\.txt")
_SIDE = re.compile(r"([^.]+)\.([^.-]+)-([^.-]+)\.([^.]+)\.idx")
_WRITERS = "a folder `bin` of scomoe-prepare, or what fairseq-preprocess wrote"


def check_data_folder(data: str) -> Path:
    """The first of the folders that DATA names, with colons between.

    Raises:
        CorpusError: one is missing, or holds no binarised corpus.
    """
    folders = [Path(one) for one in data.split(os.pathsep)]
    if "://" in data:  # not of this machine's: fairseq's to look at
        return folders[0]
    for folder in folders:
        if not folder.exists():
            raise CorpusError(f"DATA ({folder}): no such folder; name {_WRITERS}")
        if not folder.is_dir():
            raise CorpusError(f"DATA ({folder}) is a file; name {_WRITERS}")
    first = folders[0]
    if not dictionaries(first) and not any(first.glob("*.idx")):
        inside = sorted(one.parent for one in first.glob("*/dict.*.txt"))
        if inside:
            raise CorpusError(
                f"DATA ({first}) holds no binarised text, but {inside[0]} does: name that folder"
            )
        raise CorpusError(f"DATA ({first}) holds no binarised text; name {_WRITERS}")
    return first


def check_languages(folder: Path, *, source: str | None, target: str | None) -> None:
    """Refuse a language that the folder has no dictionary of, and a pair that has no text there.

    Raises:
        CorpusError: the message names what there is.
    """
    if not folder.is_dir():
        return
    has, pairs = dictionaries(folder), pairs_of(folder)
    for flag, language in ("-s", source), ("-t", target):
        if language is None or language in has:
            continue
        missing = folder / f"dict.{language}.txt"
        if any(language in pair for pair in pairs):
            raise CorpusError(
                f"{missing} is missing, the dictionary of the text in {language}; copy it from "
                "where the text was binarised, or binarise it anew"
            )
        raise CorpusError(
            f"{flag} {language}: {folder} has no text in {language}, but in {', '.join(has)}"
        )
    if source and target and pairs and frozenset((source, target)) not in pairs:
        there = ", ".join(sorted("-".join(sorted(pair)) for pair in pairs))
        raise CorpusError(f"-s {source} -t {target}: {folder} has text of {there} only")


def dictionaries(folder: Path) -> list[str]:
    """The languages of which a folder has a dictionary."""
    found = (_DICTIONARY.fullmatch(name) for name in os.listdir(folder))
    return sorted(match[1] for match in found if match)


def pairs_of(folder: Path) -> set[frozenset[str]]:
    """The pairs of languages of which a folder has binarised text."""
    found = (_SIDE.fullmatch(name) for name in os.listdir(folder))
    return {frozenset((match[2], match[3])) for match in found if match}


def missing_split(folders: Iterable[str], split: str) -> str:
    """Says that the folders have no such set, and which they have."""
    names = list(dict.fromkeys(folders))
    there = {
        match[1]
        for folder in names
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if (match := _SIDE.fullmatch(name))
    }
    has = f"it has {', '.join(sorted(there))}" if there else "it has no binarised text"
    return (
        f"there is no {split} set of these languages in {', '.join(names)}; {has}: name one of "
        "them, train without validation (--disable-validation), or prepare the corpus anew"
    )
