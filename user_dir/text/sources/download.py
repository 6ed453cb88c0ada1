"""Fetching files over HTTP so that an interrupted download goes on where it stopped."""

import fcntl
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from user_dir.errors import CorpusError

_BLOCK = 1 << 16


def fetch(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], None],
    attempts: int = 3,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> bool:
    """Download `url` to `path` unless it is there already; returns whether it had to.

    The bytes gather in a sibling ending in .part, which a later call continues, and take their
    final name once `check` has accepted them. `check` raises `CorpusError` on damage; the bytes
    are then thrown away, so that the next call starts afresh. Raises `CorpusError` when no
    attempt succeeded. Time-out and pause in seconds.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _alone_with(part):
        if path.exists():  # another run has fetched it meanwhile
            return False
        _fetch_part(url, part, attempts=attempts, timeout=timeout, pause=pause)
        try:
            check(part)
        except CorpusError as error:
            part.unlink()
            raise CorpusError(f"{url}: {error}") from None
        part.rename(path)
    return True


@contextmanager
def _alone_with(part: Path) -> Iterator[None]:
    """Wait until no other run writes to the file; the lock goes with the process.

    Two runs would append to it in turn.
    """
    while True:
        with part.open("ab") as file:
            with suppress(OSError):  # some shared file systems know no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_same = os.path.samestat(os.fstat(file.fileno()), part.stat())
            except FileNotFoundError:  # the other run has finished it, or thrown it away
                is_same = False
            if is_same:
                try:
                    yield
                finally:
                    with suppress(FileNotFoundError):
                        if not part.stat().st_size:
                            part.unlink()
                return


def _fetch_part(url: str, part: Path, *, attempts: int, timeout: float, pause: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            _download(url, part, timeout=timeout)
            break
        except (OSError, HTTPException) as error:
            if attempt == attempts or _is_final(error):
                raise CorpusError(
                    f"{url}: download failed ({error}); what has arrived is kept in {part}, and "
                    "the same command goes on from there"
                ) from None
            time.sleep(pause * attempt)


def _is_final(error: Exception) -> bool:
    # 4xx: asking again gives the same answer.
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500


def _download(url: str, part: Path, *, timeout: float) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        # Nothing lies beyond what we have: either all of it arrived, or it is another file's.
        if error.headers.get("Content-Range", "") == f"bytes */{done}":
            return
        os.truncate(part, 0)  # the file itself stays: it is locked
        response = urllib.request.urlopen(url, timeout=timeout)
    # A server that ignores the range answers 200 and starts from the first byte.
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        expected = response.headers.get("Content-Length")
        received = 0
        while block := response.read(_BLOCK):
            file.write(block)
            received += len(block)
    if expected is not None and received != int(expected):
        raise ConnectionError(f"connection closed after {received} of {expected} bytes")
