"""The lines to translate, from a file or from standard input."""

import sys
from pathlib import Path

from user_dir.errors import UserError
from user_dir.text.lines import clean_line


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
    raw_lines = data.split(b"\n")
    if raw_lines[-1] == b"":  # what follows the last line's end is not a line
        raw_lines.pop()
    return [_decode(raw, name, number) for number, raw in enumerate(raw_lines, start=1)]


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


def _decode(raw: bytes, name: str, number: int) -> str:
    try:
        # A byte order mark at the start of a file is no part of its first sentence.
        return clean_line(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {number}: not valid UTF-8 (byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1} of the line); convert it, for example with iconv -t UTF-8"
        ) from None
