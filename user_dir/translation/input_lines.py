"""The lines to translate, from a file or from standard input, one after the other."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from user_dir.errors import UserError
from user_dir.text.lines import decode_each


def read_input(path: Path | None) -> Iterator[str]:
    """The cleaned lines of a UTF-8 file, of standard input if None; empty ones stay.

    Only a line feed ends a line; other white space is one space, as in the training text. A line
    is read when it is asked for.

    Raises:
        UserError: a missing file, a closed standard input, or bytes that are no UTF-8, by line.
    """
    if path is None:
        yield from decode_each(_standard_input(), name="standard input")
        return
    with _open(path) as file:
        yield from decode_each(file, name=str(path))


def count_lines(path: Path | None) -> int | None:
    """How many lines `read_input` will find; None where only reading them tells."""
    if path is None or not path.is_file():
        return None
    count, last = 0, b"\n"
    with _open(path) as file:
        while piece := file.read(1 << 20):
            count += piece.count(b"\n")
            last = piece[-1:]
    return count + (last != b"\n")


def is_terminal(path: Path | None) -> bool:
    """Whether somebody types the lines."""
    return path is None and sys.stdin is not None and sys.stdin.isatty()


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UserError("standard input is closed; name a file with --input")
    if sys.stdin.isatty():
        print("reading from the terminal; end with Ctrl-D", file=sys.stderr)
    return sys.stdin.buffer


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"--input ({path}): cannot be read ({error.strerror})") from None
    with file:
        yield file
