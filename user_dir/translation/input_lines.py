"""The lines to translate, from a file or from standard input."""

import sys
from pathlib import Path

from user_dir.errors import UserError
from user_dir.text.lines import decode_lines


def read_input(path: Path | None) -> list[str]:
    """The cleaned lines of a UTF-8 file, of standard input if None; empty ones stay.

    Only a line feed ends a line; other white space is one space, as in the training text.

    Raises:
        UserError: a missing file, a closed standard input, or bytes that are no UTF-8, by line.
    """
    if path is None:
        name, data = "standard input", _read_standard_input()
    else:
        name, data = str(path), _read_bytes(path)
    return list(decode_lines(data, name=name))


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise UserError("standard input is closed; name a file with --input")
    if sys.stdin.isatty():
        print("reading from the terminal; end with Ctrl-D", file=sys.stderr)
    return sys.stdin.buffer.read()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--input ({path}): cannot be read ({error.strerror})") from None
