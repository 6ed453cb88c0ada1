"""The folder that a run saves into: one run at a time, and found wanting before training."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from user_dir.errors import UserError

logger = logging.getLogger(__name__)

_LOCK = "scomoe-train.lock"
# A run whose processes were killed needs a moment to be gone.
_PATIENCE_SECONDS = 5.0


@contextmanager
def held_save_folder(folder: Path, *, patience: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Make the folder if it is not there, and keep other runs out of it meanwhile.

    The lock is the open file's, so it goes with the process, however that ends. Removes what
    killed runs have left half-written.

    Args:
        patience: seconds to wait for another run's end.

    Raises:
        UserError: the folder cannot be written, or another run has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # the lock may be there from before
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lock = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--save-dir ({folder}) cannot be written ({error.strerror}); name a folder that can"
        ) from None
    with lock:
        _take(lock, folder, patience)
        for left in folder.glob("checkpoint*.pt.tmp"):
            logger.warning("removing %s, which a killed run left half-written", left)
            left.unlink()
        yield


def _take(lock: IO[str], folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _is_taken_by_us(lock):
        if time.monotonic() > deadline:
            lock.seek(0)
            who = lock.read().strip() or "another process"
            raise UserError(
                f"--save-dir ({folder}) is in use by another run ({who}); wait for its end, or "
                "name another folder"
            )
        time.sleep(0.1)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _is_taken_by_us(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        logger.warning("%s: no lock (%s): see that no other run saves there", lock.name, error)
    return True
