"""The folder that a run saves into: one run at a time, and found wanting before training."""

import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from user_dir.errors import UserError

logger = logging.getLogger(__name__)

_LOCK = "scomoe-train.lock"
# A run whose processes were killed needs a moment to be gone.
_PATIENCE_SECONDS = 10.0
_held: list[IO[str]] = []  # open as long as the process lives


def hold_folder(save_dir: str | Path, *, patience: float = _PATIENCE_SECONDS) -> None:
    """Make the folder if it is not there, and keep other runs out of it until this process ends.

    The lock is the open file's, so it goes with the process, however that ends. Removes what
    killed runs have left half-written.

    Raises:
        UserError: the folder cannot be written, or another run has it.
    """
    folder = Path(save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--save-dir ({folder}) cannot be written ({error.strerror}); name a folder that can"
        ) from None
    deadline = time.monotonic() + patience
    while not _is_taken_by_us(lock):
        if time.monotonic() > deadline:
            lock.seek(0)
            who = lock.read().strip() or "another process"
            lock.close()
            raise UserError(
                f"--save-dir ({folder}) is in use by another run ({who}); wait for its end, or "
                "name another folder"
            )
        time.sleep(0.1)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    for left in folder.glob("checkpoint*.pt.tmp"):
        logger.warning("removing %s, which a killed run left half-written", left)
        left.unlink(missing_ok=True)
    _held.append(lock)


def _is_taken_by_us(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        logger.warning("%s: no lock (%s): see that no other run saves there", lock.name, error)
    return True
