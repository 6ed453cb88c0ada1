"""Text inside tar archives, read as a stream, and whether an archive is whole."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from user_dir.errors import CorpusError

_DAMAGE = (EOFError, OSError, tarfile.TarError, zlib.error)
_BLOCK = 1 << 20


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[BinaryIO]:
    """One file of a tar archive as a stream of bytes; a member ending in .gz is unpacked.

    Raises `CorpusError` if it is not there; damage shows itself while reading.
    """
    with ExitStack() as stack:
        for info, file in _members(archive, stack):
            if info.name.removeprefix("./") == member:
                yield _unpacked(file, member)
                return
        raise CorpusError(f"{archive}: holds no {member}; get the archive again")


def check_archive(archive: Path, members: Sequence[str]) -> None:
    """Read an archive to its end; `CorpusError` if it is damaged or lacks one of the members."""
    missing = set(members)
    with ExitStack() as stack:
        for info, file in _members(archive, stack):
            name = info.name.removeprefix("./")
            if name in missing:
                missing.remove(name)
                _read_to_end(_unpacked(file, name), archive)
    if missing:
        raise CorpusError(f"{archive}: holds no {min(missing)}; get the archive again")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(archive: Path, stack: ExitStack) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Every plain file; after the last one the rest is read, whose checksum tells of damage."""
    try:
        raw = stack.enter_context(archive.open("rb"))
    except OSError as error:
        raise CorpusError(f"{archive}: cannot be read ({error.strerror})") from None
    is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
    # Not tarfile's own gzip stream: it does not notice a missing end.
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw) if is_gzip else raw)
    try:
        tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115  the stack closes it
        stack.enter_context(tar)
        for info in tar:
            if info.isfile():
                yield info, cast(BinaryIO, tar.extractfile(info))
        while stream.read(_BLOCK):
            pass
    except _DAMAGE as error:
        raise damaged(archive, error) from None


def damaged(archive: Path, error: BaseException) -> CorpusError:
    """What to say of an archive that cannot be read to its end."""
    return CorpusError(
        f"{archive}: damaged or truncated archive ({error or type(error).__name__}); get it again"
    )


def _unpacked(file: BinaryIO, name: str) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file)


def _read_to_end(file: BinaryIO, archive: Path) -> None:
    try:
        while file.read(_BLOCK):
            pass
    except _DAMAGE as error:
        raise damaged(archive, error) from None


def copy_stream(file: BinaryIO, path: Path, archive: Path) -> None:
    """Write what is left of a member to a file, telling damage of it from a full disk."""
    with path.open("wb") as target:
        while True:
            try:
                block = file.read(_BLOCK)
            except _DAMAGE as error:
                raise damaged(archive, error) from None
            if not block:
                return
            target.write(block)


def each_file(archive: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Every plain file of an archive, in its order, to be read before the next is asked for."""
    with ExitStack() as stack:
        for info, file in _members(archive, stack):
            yield info.name.removeprefix("./"), file
