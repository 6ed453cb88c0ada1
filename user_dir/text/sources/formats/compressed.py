"""The lines of text files, plain or compressed; the name's ending says which."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError


def text_lines(path: Path) -> Generator[bytes, None, None]:
    """The lines of a file as they are in it, one at a time.

    Raises `CorpusError` if the file cannot be opened, or where it is damaged.
    """
    open_file = _OPENERS.get(path.suffix, lambda plain: plain.open("rb"))
    try:
        file = open_file(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    number = 0
    with file:
        try:
            for line in file:
                number += 1
                yield line
        except _damage_of(path) as error:
            raise CorpusError(
                f"{path}: damaged, unreadable from about line {number + 1} on ({error}); get the "
                "file again"
            ) from None


def without_compression(path: Path) -> Path:
    """The name that the file has once it is unpacked."""
    return path.with_suffix("") if path.suffix in _OPENERS else path


def _zstandard(path: Path) -> Any:
    try:
        from backports import zstd  # of Python 3.14
    except ImportError:
        raise CorpusError(
            f"{path}: .zst is read by backports.zstd, which is missing here; install it with: pip "
            "install backports.zstd, or unpack the file with: unzstd"
        ) from None
    return zstd


def _damage_of(path: Path) -> tuple[type[Exception], ...]:
    own = (_zstandard(path).ZstdError,) if path.suffix == ".zst" else ()
    return EOFError, OSError, lzma.LZMAError, zlib.error, *own


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: _zstandard(path).open(path),
}
