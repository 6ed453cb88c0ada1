"""Output files and folders that appear complete or not at all."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from user_dir.errors import CorpusError, UserError
from user_dir.text.leftovers import held_folder, open_held, remove_leftovers

CORPUS_ENTRIES = frozenset({"raw", "spm.model", "spm.vocab", "bin"})


@contextmanager
def new_folder(out: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling of `out` to write into; it takes the place of `out` at a normal exit.

    On any exception the temporary folder goes and `out` stays as it was. `out` may be an empty
    folder; a prepared corpus is replaced if `overwrite` says so, anything else never is
    (`CorpusError`).
    """
    # A link stays a link: what it points to is replaced.
    out = Path(os.path.realpath(out))
    _finish_replacing(out)
    check_replaceable(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    partial = out.with_name(f".{out.name}.partial-{token}")
    _remove_leftovers_of(out)
    with held_folder(partial):
        yield partial
        _put_in_place(partial, out, retired=out.with_name(f".{out.name}.old-{token}"))


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Raise `CorpusError` if `new_folder` must not put a corpus at `out`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CorpusError(f"--out ({out}) is a file; name a folder that does not exist yet")
    entries = {entry.name for entry in out.iterdir()}
    if entries - CORPUS_ENTRIES:
        raise CorpusError(
            f'--out ({out}) exists and holds more than a prepared corpus ("'
            f'{min(entries - CORPUS_ENTRIES)}"), so it is never overwritten; name another folder'
        )
    if entries and not overwrite:
        raise CorpusError(
            f"--out ({out}) exists; name another folder, or add --overwrite to replace it"
        )


def _put_in_place(partial: Path, out: Path, *, retired: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    out.rename(retired)
    try:
        partial.rename(out)
    except OSError:
        retired.rename(out)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _finish_replacing(out: Path) -> None:
    """Put back what a run had taken aside when it was killed; remove it if the new one is there."""
    for retired in out.parent.glob(".*"):
        if re.fullmatch(rf"\.{re.escape(out.name)}\.old-[0-9a-f]{{8}}", retired.name):
            if out.exists():
                shutil.rmtree(retired, ignore_errors=True)
            else:
                retired.rename(out)


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
        with path.open("wb") as plain:
            yield plain
        return
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    _remove_leftovers_of(path)
    try:
        file = open_held(partial)
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


def _remove_leftovers_of(path: Path) -> None:
    name = re.compile(rf"\.{re.escape(path.name)}\.partial-[0-9a-f]{{8}}")
    remove_leftovers(path.parent, name)


def write_whole(path: Path, text: str, *, flag: str) -> None:
    """Write UTF-8 text to a file that appears complete or not at all."""
    with whole_file(path, flag=flag) as file:
        file.write(text.encode())


def _is_plain_file(path: Path, flag: str) -> bool:
    if path.is_dir():
        raise UserError(f"{flag} ({path}) is a folder; name a file in it")
    return stat.S_ISREG(path.stat().st_mode)
