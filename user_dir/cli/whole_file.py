"""An output file that appears complete or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from user_dir.fast_moe.errors import UserError


@contextmanager
def whole_file(path: str | Path, *, flag: str) -> Iterator[BinaryIO]:
    """A temporary sibling of `path` to write to; it takes the name at a normal exit.

    On any exception it goes, and what was at `path` stays. What is no plain file, such as a
    pipe or /dev/null, is written to as it is.

    Raises:
        UserError: there is no place for the file; the message names the flag.
    """
    # A link stays a link: what it points to is replaced.
    path = Path(os.path.realpath(path))
    if path.exists() and not _is_plain_file(path, flag):
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        file = partial.open("xb")
    except OSError as error:
        raise UserError(
            f"{flag} ({path}): no file can be written in {path.parent} ({error.strerror}); "
            "name a folder that exists and is yours"
        ) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the new content is on the disk before the old one goes
        partial.replace(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def write_whole(path: Path, text: str, *, flag: str) -> None:
    """Write UTF-8 text to a file that appears complete or not at all."""
    with whole_file(path, flag=flag) as file:
        file.write(text.encode())


def _is_plain_file(path: Path, flag: str) -> bool:
    if path.is_dir():
        raise UserError(f"{flag} ({path}) is a folder; name a file in it")
    return stat.S_ISREG(path.stat().st_mode)
