"""Reading what fairseq-preprocess writes: dictionaries and binarised text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from user_dir.errors import CorpusError
from user_dir.text.binarised_files import Index, check_binarised, read_index

# The symbols that fairseq's Dictionary puts before those of the file.
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# Of a line: they show nothing.
_HIDDEN = frozenset({0, 1, 2})
UNKNOWN = "<unk>"


def is_binarised(folder: Path) -> bool:
    """Whether a folder is one of fairseq-preprocess."""
    return any(folder.glob("dict.*.txt"))


def binarised_names(folder: Path) -> list[str]:
    """The names of the binarised texts, such as test.en-de.en."""
    return sorted(path.name.removesuffix(".idx") for path in folder.glob("*.idx"))


def read_dictionary(path: Path) -> list[str]:
    """The symbols of a fairseq dictionary, by their ids."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as a dictionary ({error})") from None
    entries = [line.removesuffix(" #fairseq:overwrite") for line in lines if line.strip()]
    return [*_SPECIAL, *(entry.rsplit(" ", 1)[0] for entry in entries)]


def count_binarised(folder: Path, name: str) -> int:
    """How many sentences a binarised text has."""
    path = folder / f"{name}.idx"
    return len(_of_usual_format(read_index(path), path))


def read_binarised(folder: Path, name: str) -> Iterator[str]:
    """The lines of a binarised text such as test.en-de.en, in pieces with spaces between.

    Raises `CorpusError` if it is damaged, of another format, or of another dictionary.
    """
    dictionary = folder / f"dict.{name.rpartition('.')[2]}.txt"
    symbols = read_dictionary(dictionary)
    checked = check_binarised(folder / name, num_symbols=len(symbols), dictionary=str(dictionary))
    index = _of_usual_format(checked, folder / f"{name}.idx")
    ids = np.memmap(folder / f"{name}.bin", mode="r")
    for size, start in zip(index.sizes.tolist(), index.starts.tolist(), strict=True):
        line = np.frombuffer(ids, dtype=index.dtype, count=size, offset=start)
        yield " ".join(symbols[one] for one in line.tolist() if one not in _HIDDEN)


def _of_usual_format(index: Index | None, path: Path) -> Index:
    if index is None:
        raise CorpusError(
            f"{path} is no index of fairseq's usual format; binarise with --dataset-impl mmap"
        )
    return index
