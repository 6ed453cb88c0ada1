"""Reading what fairseq-preprocess writes: dictionaries and binarised text."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from user_dir.errors import CorpusError

# The symbols that fairseq's Dictionary puts before those of the file.
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# Of a line: they show nothing.
_HIDDEN = frozenset({0, 1, 2})
UNKNOWN = "<unk>"

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQ")
# fairseq's codes of the types of tokens.
_TYPES = {
    **{1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32},
    **{5: np.int64, 6: np.float32, 7: np.float64, 8: np.uint16, 9: np.uint32, 10: np.uint64},
}


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
    with (folder / f"{name}.idx").open("rb") as file:
        return _read_header(file.read(_HEADER.size), folder / f"{name}.idx")[1]


def read_binarised(folder: Path, name: str) -> Iterator[str]:
    """The lines of a binarised text such as test.en-de.en, in pieces with spaces between.

    Raises `CorpusError` if it is damaged, of another format, or of another dictionary.
    """
    index, data = folder / f"{name}.idx", folder / f"{name}.bin"
    symbols = read_dictionary(folder / f"dict.{name.rpartition('.')[2]}.txt")
    try:
        head = index.read_bytes()
        kind, count = _read_header(head, index)
        sizes = np.frombuffer(head, dtype=np.int32, count=count, offset=_HEADER.size)
        tokens: np.ndarray = np.fromfile(data, dtype=kind)
    except (OSError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{data} or its .idx is damaged ({error}); binarise it again") from None
    if int(sizes.sum()) != len(tokens):
        raise CorpusError(
            f"{data} has {len(tokens)} tokens, but {index} tells of {sizes.sum()}; binarise "
            "it again"
        )
    if len(tokens) and int(tokens.max()) >= len(symbols):
        raise CorpusError(
            f"{data}: its dictionary in {folder} has only {len(symbols)} symbols, too few for it; "
            "binarise it with that dictionary"
        )
    for ids in np.split(tokens, np.cumsum(sizes)[:-1]) if count else ():
        yield " ".join(symbols[one] for one in ids.tolist() if one not in _HIDDEN)


def _read_header(head: bytes, path: Path) -> tuple[type, int]:
    """(type of the tokens, number of sentences) of an index."""
    if not head.startswith(_MAGIC) or len(head) < _HEADER.size:
        raise CorpusError(
            f"{path} is no index of fairseq's usual format; binarise with --dataset-impl mmap"
        )
    _, _, code, count = _HEADER.unpack_from(head)
    return _TYPES[code], count
