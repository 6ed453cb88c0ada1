"""An output folder that appears complete or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from user_dir.text.lines import CorpusError

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
    check_replaceable(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    partial = out.with_name(f".{out.name}.partial-{token}")
    try:
        partial.mkdir()
        yield partial
        _put_in_place(partial, out, retired=out.with_name(f".{out.name}.old-{token}"))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
