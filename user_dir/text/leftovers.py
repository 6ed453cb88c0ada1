"""Unfinished files and folders: who works on them holds a lock, which goes with the process.

What a killed run has left behind is therefore known by its name and by nobody holding it, and the
next run removes it.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = "scomoe-run-"
# Until the lock is there the name is another one, which nobody looks for.
_UNHELD = "new."


@contextmanager
def held_file(path: Path) -> Iterator[BinaryIO]:
    """Create a file that is held meanwhile; at the end it goes, unless it got another name."""
    with _unheld(path).open("xb") as file, _held(path, file.fileno()):
        yield file


@contextmanager
def held_folder(path: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Create a folder that is held meanwhile; at the end it goes, unless it got another name."""
    _unheld(path).mkdir(mode=mode)
    descriptor = os.open(_unheld(path), os.O_RDONLY)
    try:
        with _held(path, descriptor):
            yield path
    finally:
        os.close(descriptor)


@contextmanager
def _held(path: Path, descriptor: int) -> Iterator[None]:
    try:
        _lock(descriptor)
        _unheld(path).rename(path)
        yield
    finally:
        with suppress(OSError):
            _remove(path)


def _unheld(path: Path) -> Path:
    return path.with_name(_UNHELD + path.name)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone at the end; one of a killed run goes when the next one begins."""
    place = Path(tempfile.gettempdir())
    remove_leftovers(place, re.compile(re.escape(_TEMPORARY) + "[0-9a-f]{16}"))
    path = place / f"{_TEMPORARY}{os.urandom(8).hex()}"
    with held_folder(path, mode=0o700):
        yield path


@contextmanager
def name_without(sign: str, path: str | Path) -> Iterator[str]:
    """A name of a file or folder without some sign, for programs that take it for several names.

    Its own where that has none; else that of a link, meanwhile.
    """
    if sign not in str(path):
        yield str(path)
        return
    with _linked(path) as link:
        yield link


@contextmanager
def name_in_utf8(path: str | Path) -> Iterator[str]:
    """A name of a file or folder for libraries of C++, which take UTF-8 only, as `name_without`."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with _linked(path) as link:
            yield link
    else:
        yield str(path)


@contextmanager
def _linked(path: str | Path) -> Iterator[str]:
    with temporary_folder() as place:
        link = place / "link"
        link.symlink_to(os.path.abspath(path))
        yield str(link)


def remove_leftovers(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the entries of a folder with such a name, all of it, that nobody holds."""
    try:
        entries = [entry for entry in os.scandir(folder) if name.fullmatch(entry.name)]
    except OSError:  # whoever needs the folder will say so
        return
    for entry in entries:
        # Those of other users, and those that somebody else is removing.
        with suppress(OSError):
            _remove_unless_held(Path(entry.path))


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if _lock(descriptor):
            _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another holds it; or a file system without locks, where nothing is removed
        return False
    return True
