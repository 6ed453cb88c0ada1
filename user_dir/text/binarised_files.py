"""Whether the files of a binarised corpus are whole, in fairseq's `mmap` format.

Of every side there is an index, which holds how many sentences there are, of how many ids each and
from which byte on, and a file of the ids.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from user_dir.errors import CorpusError

_MAGIC = b"MMIDIDX\x00\x00"
# Formats of fairseq's that nothing here writes; fairseq reads them, and nothing is known of them.
_OTHER_FORMATS = (b"TNTIDX\x00\x00", b"HUFFIDX\x00\x00")
_HEADER = struct.Struct("<QBQ")  # version, type of the ids, number of sentences
_TYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2", 9: "u4", 10: "u8"}
_AT_ONCE = 1 << 24
_FEW_SYMBOLS = 65500  # as fairseq counts; below, two bytes are enough for each

_CURE = "get the file again, or binarise the corpus anew"


@dataclass(frozen=True)
class Index:
    """What a file of ids holds: their type, and for each sentence how many and from which byte."""

    dtype: np.dtype
    sizes: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)


def read_index(path: Path) -> Index | None:
    """The content of an index; None where it is of another format of fairseq's.

    Raises:
        CorpusError: it is cut off, damaged or no index; the message names it.
    """
    try:
        with path.open("rb") as file:
            magic, header = file.read(len(_MAGIC)), file.read(_HEADER.size)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    if magic.startswith(_OTHER_FORMATS):
        return None
    num_bytes = path.stat().st_size
    if magic != _MAGIC or len(header) < _HEADER.size:
        what = "no index of binarised text" if num_bytes else "empty"
        raise CorpusError(f"{path} is {what}; {_CURE}")
    version, code, count = _HEADER.unpack(header)
    if version != 1 or code not in _TYPES:
        raise CorpusError(f"{path} is damaged: version {version}, type of ids {code}; {_CURE}")
    offset = len(_MAGIC) + _HEADER.size
    if num_bytes != offset + 12 * count:
        raise CorpusError(
            f"{path} is cut off or damaged: it has {num_bytes} bytes, but an index of its "
            f"{count} sentences has {offset + 12 * count}; {_CURE}"
        )
    if not count:
        raise CorpusError(f"{path} has no sentences; leave its pair out, or binarise it anew")
    content = np.memmap(path, mode="r")
    sizes = np.frombuffer(content, dtype="<i4", count=count, offset=offset)
    starts = np.frombuffer(content, dtype="<i8", count=count, offset=offset + sizes.nbytes)
    return Index(np.dtype(f"<{_TYPES[code]}"), sizes, starts)


def type_of_ids(num_symbols: int) -> np.dtype:
    """The type in which fairseq-preprocess writes ids of a dictionary with so many symbols."""
    return np.dtype("<u2" if num_symbols < _FEW_SYMBOLS else "<u4")


def write_index(path: Path, sizes: np.ndarray, dtype: np.dtype) -> None:
    """Write the index of sentences that lie one after the other.

    Args:
        sizes: how many ids each sentence has.
        dtype: of the ids.
    """
    code = next(code for code, name in _TYPES.items() if np.dtype(f"<{name}") == dtype)
    ends = np.cumsum(sizes, dtype="<i8") * dtype.itemsize
    with path.open("wb") as file:
        file.write(_MAGIC + _HEADER.pack(1, code, len(sizes)))
        file.write(sizes.astype("<i4").data)
        file.write((ends - sizes * dtype.itemsize).astype("<i8").data)


def check_binarised(prefix: Path, *, num_symbols: int, dictionary: str) -> Index | None:
    """Check both files of one side from their headers to the last id; what the index holds.

    None where fairseq has another format. All ids are read, which takes about as long as fairseq
    itself does when it opens the file.

    Args:
        prefix: the files' name without .idx and .bin.
        num_symbols: of the dictionary; every id must be below.
        dictionary: its name, for the user.

    Raises:
        CorpusError: a file is missing, cut off or damaged; the message names it.
    """
    index_path, path = (prefix.with_name(f"{prefix.name}.{end}") for end in ("idx", "bin"))
    for one, other in (index_path, path), (path, index_path):
        if not one.is_file():
            raise CorpusError(f"{one} is missing, but {other} is there; {_CURE}")
    index = read_index(index_path)
    if index is not None:
        _check_bounds(index, index_path, path)
        _check_ids(path, index.dtype, num_symbols=num_symbols, dictionary=dictionary)
    return index


def _check_bounds(index: Index, index_path: Path, path: Path) -> None:
    num_bytes = path.stat().st_size
    for first in range(0, len(index), _AT_ONCE):
        sizes = index.sizes[first : first + _AT_ONCE].astype(np.int64)
        starts = index.starts[first : first + _AT_ONCE]
        is_impossible = (sizes < 0) | (starts < 0)
        # Not the sum of start and size: a damaged start can be too large for that.
        is_outside = starts > num_bytes - sizes * index.dtype.itemsize
        if not (is_impossible | is_outside).any():
            continue
        at = int((is_impossible | is_outside).argmax())
        where = f"sentence {first + at + 1} has {sizes[at]} ids from byte {starts[at]} on"
        if is_impossible[at]:
            raise CorpusError(f"{index_path} is damaged: {where}; {_CURE}")
        raise CorpusError(
            f"{path} is cut off, or {index_path.name} damaged: it has {num_bytes} bytes, but "
            f"{where}; {_CURE}"
        )


def _check_ids(path: Path, dtype: np.dtype, *, num_symbols: int, dictionary: str) -> None:
    count = path.stat().st_size // dtype.itemsize
    if not count:
        raise CorpusError(f"{path} is empty; {_CURE}")
    ids = np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    for first in range(0, count, _AT_ONCE):
        part = ids[first : first + _AT_ONCE]
        worst = int(part.min()) if part.min() < 0 else int(part.max())
        if not 0 <= worst < num_symbols:
            raise CorpusError(
                f"{path} holds the id {worst}, but {dictionary} has {num_symbols} symbols, those "
                "of fairseq's own included; use the dictionary that the corpus was binarised "
                "with, or binarise it anew"
            )
