"""Sentences as numbers, so that those of many test sets can be looked up in memory."""

import hashlib
from array import array
from collections.abc import Iterable
from pathlib import Path

_NUMBERS = "Q"


def sentence_hash(language: str, line: str) -> int:
    """64 bits that tell one sentence of a language from another."""
    digest = hashlib.blake2b(f"{language}\t{line}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_hashes(path: Path, hashes: Iterable[int]) -> None:
    """Write hashes; `read_hashes` reads them."""
    with path.open("wb") as file:
        array(_NUMBERS, sorted(hashes)).tofile(file)


def read_hashes(paths: Iterable[Path]) -> frozenset[int]:
    """All that `write_hashes` wrote to some files."""
    hashes = array(_NUMBERS)
    for path in paths:
        with path.open("rb") as file:
            hashes.fromfile(file, path.stat().st_size // hashes.itemsize)
    return frozenset(hashes)
