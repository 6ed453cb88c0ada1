"""Folders of files such as train.en-de.en and train.en-de.de, the names that fairseq gives."""

from collections.abc import Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.pairs import Pair, language_name
from user_dir.text.sources.formats.compressed import without_compression
from user_dir.text.sources.formats.two_files import TwoFiles

# What files of a set are called, where a folder has files of several sets.
_PREFIXES = {"train": {"train"}, "valid": {"valid", "dev", "val"}, "test": {"test"}}


def texts_in(folder: Path, split: str, *, flag: str) -> list[TwoFiles]:
    """The pairs of files of a folder; those of one split, where their prefixes tell of splits.

    Raises `CorpusError` if there are none.
    """
    found = _pairs_of_files(folder)
    told = set.union(*_PREFIXES.values()) & {prefix for prefix, _ in found}
    texts = [text for prefix, text in found if not told or prefix in _PREFIXES[split]]
    if not texts:
        holds = f"but those of {', '.join(sorted(told))}" if told else "nor any other such pair"
        raise CorpusError(
            f"{flag} ({folder}): the folder holds no {split}.en-de.en and {split}.en-de.de, {holds}"
        )
    return texts


def texts_of_prefix(prefix: Path, languages: Pair | None) -> Sequence[TwoFiles]:
    """The files PREFIX.en-de.en and PREFIX.en-de.de, or PREFIX.en and PREFIX.de, if there are any.

    For the latter the languages must be known.
    """
    if not prefix.parent.is_dir():
        return []
    found = [text for name, text in _pairs_of_files(prefix.parent) if name == prefix.name]
    if found or languages is None:
        return found
    by_name = _files(prefix.parent)
    sides = [by_name.get(f"{prefix.name}.{language}") for language in languages.languages]
    if sides[0] is None or sides[1] is None:
        return []
    return [TwoFiles(languages, (sides[0], sides[1]))]


def _pairs_of_files(folder: Path) -> list[tuple[str, TwoFiles]]:
    """(prefix, text) of all files PREFIX.A-B.A with a partner PREFIX.A-B.B, by name."""
    by_name = _files(folder)
    found = []
    for name, path in by_name.items():
        parts = name.rsplit(".", 2)
        if len(parts) < 3 or not parts[1].startswith(f"{parts[2]}-"):
            continue
        prefix, both, source = parts
        target = both.removeprefix(f"{source}-")
        partner = by_name.get(f"{prefix}.{both}.{target}")
        if partner is None:
            raise CorpusError(f"{path} has no partner {prefix}.{both}.{target}; add or remove it")
        pair = Pair(*(language_name(one, flag=str(path)) for one in (source, target)))
        found.append((prefix, TwoFiles(pair, (path, partner))))
    return found


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by the names that they have unpacked."""
    return {without_compression(path).name: path for path in sorted(folder.iterdir())}
