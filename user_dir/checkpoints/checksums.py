"""Whether the bytes of a checkpoint are those that were written.

`torch.save` writes a zip archive, whose every record (each tensor is one, the options are another)
carries a CRC-32. Copies of the file carry them along. `torch.load` never looks at them.
"""

import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from user_dir.errors import UserError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_MOST_THREADS = 8
# What a zip archive starts with; a file that was cut off has no directory at its end.
_ZIP_MAGIC = b"PK\x03\x04"


def is_archive(path: str | Path) -> bool:
    """Whether a file was begun as `torch.save` writes since 1.6; older ones are no archives."""
    with open(path, "rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def check_archive(path: str | Path) -> None:
    """Refuse an archive that was cut off, or is none of torch's. Reads its directory only.

    Raises:
        UserError: the message says which.
    """
    _records(str(path))


def verify_checksums(path: str | Path) -> None:
    """Compare every record of a checkpoint with its checksum; a file that has none loads, noted.

    Raises:
        UserError: some differ, or the file was cut off; the message says which.
    """
    status = os.stat(path)
    _verify_once(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@cache  # a process opens a checkpoint several times; another file has another identity
def _verify_once(path: str, inode: int, size: int, modified_ns: int) -> None:
    if not is_archive(path):
        logger.warning("%s has no checksums (torch before 1.6 wrote it): taken as it is", path)
        return
    names = _records(path)
    threads = min(_MOST_THREADS, os.cpu_count() or 1, len(names))
    with ThreadPoolExecutor(threads) as pool:
        shares = [names[index::threads] for index in range(threads)]
        broken = [name for found in pool.map(_broken, [path] * threads, shares) for name in found]
    if broken:
        raise UserError(
            f"{len(broken)} of its {len(names)} records are not what was written (the first: "
            f"{min(broken)}), so it was damaged since; take another checkpoint or a copy"
        )


def _records(path: str) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        entries = []
    if not entries:
        raise UserError("it was cut off, or its end was damaged; take another checkpoint or a copy")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError("its records are compressed, as those of torch.save never are")
    return [entry.filename for entry in entries]


def _broken(path: str, names: list[str]) -> list[str]:
    """The records whose bytes have another checksum than their entry."""
    broken = []
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                with archive.open(name) as record:
                    while record.read(_CHUNK):  # the last read compares
                        pass
            except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError):
                broken.append(name)  # RuntimeError: of a flag that says it is encrypted
    return broken
