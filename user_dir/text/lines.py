"""Reading text that people hand us, and saying by file and line what is wrong with it."""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from user_dir.errors import CorpusError

_CONVERT = "convert it, for example with iconv -t UTF-8"


def clean_line(line: str) -> str:
    """The line without surrounding white space; every inner run of it becomes one space.

    Unicode's other line ends and separators would split a line in two for the tools that
    read the prepared text later.
    """
    return " ".join(line.split())


def read_lines(path: str | Path) -> list[str]:
    """The cleaned lines of a UTF-8 text file, plain or gzip (`.gz`).

    Raises `CorpusError`, naming file and line, if the file is missing, damaged, not UTF-8,
    or has no lines or an empty one.
    """
    path = Path(path)
    lines = []
    for number, line in enumerate(decode_lines(_read_bytes(path), name=str(path)), start=1):
        if not is_readable(line):
            raise CorpusError(
                f"{path}, line {number}: empty, or nothing but invisible characters; remove this "
                "line from the files of all languages"
            )
        lines.append(line)
    if not lines:
        raise CorpusError(f"{path}: the file has no lines; give one sentence a line")
    return lines


def decode_line(raw: bytes) -> str:
    """The cleaned line of UTF-8 text, without a byte order mark before it.

    Raises `UnicodeDecodeError` for other bytes.
    """
    return clean_line(raw.decode().lstrip("\ufeff"))


def decode_lines(data: bytes, *, name: str, cure: str = _CONVERT) -> Iterator[str]:
    """The cleaned lines of UTF-8 text, empty ones too; only a line feed ends one.

    Raises `CorpusError` for other bytes: `name` says where they come from, `cure` what would do.
    """
    raw_lines = data.split(b"\n")
    if raw_lines[-1] == b"":  # what follows the last line's end is not a line
        raw_lines.pop()
    return decode_each(raw_lines, name=name, cure=cure)


def decode_each(raw_lines: Iterable[bytes], *, name: str, cure: str = _CONVERT) -> Iterator[str]:
    """The same of lines that come one after the other, with their ends or without."""
    for number, raw in enumerate(raw_lines, start=1):
        try:
            yield decode_line(raw)
        except UnicodeDecodeError as error:
            raise CorpusError(
                encoding_message(error, name=name, number=number, cure=cure)
            ) from None


def encoding_message(
    error: UnicodeDecodeError, *, name: str, number: int, cure: str = _CONVERT
) -> str:
    """What to say of a line that is no UTF-8: where it comes from, and what would do."""
    return (
        f"{name}, line {number}: not valid UTF-8 (byte 0x{error.object[error.start]:02x} at "
        f"position {error.start + 1} of the line); {cure}"
    )


def is_readable(line: str) -> bool:
    """Whether a cleaned line shows anything."""
    return any(char.isprintable() for char in line)


def read_parallel(paths: Sequence[str | Path]) -> list[list[str]]:
    """The cleaned lines of several files whose line N is the same sentence everywhere.

    Raises `CorpusError` as `read_lines` does, and if the files differ in length.
    """
    sides = [read_lines(path) for path in paths]
    for path, side in zip(paths[1:], sides[1:], strict=True):
        if len(side) != len(sides[0]):
            raise CorpusError(_unequal_message(paths[0], len(sides[0]), path, len(side)))
    return sides


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with one line feed after every line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def written_lines(path: Path) -> Iterator[str]:
    """What `write_lines` wrote, one line at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; check the folder and the language") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    return unpack_gzip(data, path) if path.suffix == ".gz" else data


def unpack_gzip(data: bytes, path: Path) -> bytes:
    """The content of a gzip file's bytes; a `CorpusError` on damage says after which line."""
    pieces = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while piece := file.read(1 << 16):
                pieces.append(piece)
    except (EOFError, OSError, zlib.error) as error:
        line = b"".join(pieces).count(b"\n") + 1
        raise CorpusError(
            f"{path}: damaged gzip file, unreadable from about line {line} on ({error}); "
            "get the file again"
        ) from None
    return b"".join(pieces)


def _unequal_message(first: str | Path, count: int, other: str | Path, other_count: int) -> str:
    longer, shorter = (first, other) if count > other_count else (other, first)
    return (
        f"{first} has {count} lines but {other} has {other_count}: {longer}, line "
        f"{min(count, other_count) + 1}, has no partner in {shorter}; line N of every language "
        "must be the same sentence"
    )
