"""Output files and folders that appear complete or not at all."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from user_dir.errors import CorpusError, UserError
from user_dir.text.leftovers import held_file, held_folder, remove_leftovers

CORPUS_ENTRIES = frozenset({"raw", "spm.model", "spm.vocab", "bin"})

Held = TypeVar("Held")


@contextmanager
def whole_file(path: str | Path, *, flag: str) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the name `path` at a normal exit.

    On any exception it goes, and what was at `path` stays. What is no plain file, such as a
    pipe or /dev/null, is written to as it is.

    Raises:
        UserError: there is no place for the file; the message names the flag.
    """
    path = _target(path)
    if path.is_dir():
        raise UserError(f"{flag} ({path}) is a folder; name a file in it")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as plain:
            yield plain
        return
    with _in_place_of(path, held_file, flag=flag) as file:
        yield file
        file.flush()


def write_whole(path: Path, text: str, *, flag: str) -> None:
    """Write UTF-8 text to a file that appears complete or not at all."""
    with whole_file(path, flag=flag) as file:
        file.write(text.encode())


@contextmanager
def new_folder(out: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder to write into, which takes the name `out` at a normal exit.

    On any exception it goes, and `out` stays as it was. `out` may be an empty folder; a prepared
    corpus is replaced if `overwrite` says so, anything else never is (`CorpusError`).
    """
    out = _target(out)
    _finish_replacing(out)
    check_replaceable(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _in_place_of(out, held_folder, flag="--out") as folder:
        yield folder


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


def _target(path: str | Path) -> Path:
    # A link stays a link: what it points to is replaced.
    return Path(os.path.realpath(path))


@contextmanager
def _in_place_of(
    path: Path, make: Callable[[Path], AbstractContextManager[Held]], *, flag: str
) -> Iterator[Held]:
    """What `make` makes under the name of a sibling; it takes the name `path` at a normal exit."""
    remove_leftovers(path.parent, _siblings(path, "partial"))
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    with ExitStack() as stack:
        try:
            held = stack.enter_context(make(partial))
        except OSError as error:
            raise UserError(
                f"{flag} ({path}): nothing can be written in {path.parent} ({error.strerror}); "
                "name a folder that exists and is yours"
            ) from None
        yield held
        _write_through(partial)
        _put_in_place(partial, path)


def _write_through(path: Path) -> None:
    """Have the disk hold the new content before the old one goes."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _put_in_place(new: Path, path: Path) -> None:
    """Give the new file or folder the name; only a folder that holds something has to be moved."""
    try:
        new.replace(path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    retired = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
    path.rename(retired)
    try:
        new.rename(path)
    except OSError:
        retired.rename(path)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _finish_replacing(out: Path) -> None:
    """Put back what a run had moved when it was killed; remove it if the new one is there."""
    for retired in out.parent.glob(".*"):
        if _siblings(out, "old").fullmatch(retired.name):
            if out.exists():
                shutil.rmtree(retired, ignore_errors=True)
            else:
                retired.rename(out)


def _siblings(path: Path, kind: str) -> re.Pattern[str]:
    return re.compile(rf"\.{re.escape(path.name)}\.{kind}-[0-9a-f]{{8}}")
