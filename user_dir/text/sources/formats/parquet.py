"""Parquet files, with a column for each language or a `translation` that holds them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError
from user_dir.text.large.parallel_lines import LINES_AT_ONCE
from user_dir.text.sources.formats.json_lines import NESTED
from user_dir.text.sources.formats.one_file import OneFile


@dataclass(frozen=True)
class Parquet(OneFile):
    """Two languages of a file; `keys` are the names that it has for them."""

    keys: tuple[str, str]

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        with _open(self.path) as file:
            prefix = f"{NESTED}." if NESTED in file.schema_arrow.names else ""
            columns = [f"{prefix}{key}" for key in self.keys]
            try:
                for batch in file.iter_batches(batch_size=LINES_AT_ONCE, columns=columns):
                    rows = batch.column(0) if prefix else batch.to_struct_array()
                    sides = [rows.field(key).to_pylist() for key in self.keys]
                    for source, target in zip(*sides, strict=True):
                        yield _bytes(source), _bytes(target)
            except OSError as error:
                raise _damaged(self.path, error) from None


def keys_of_columns(path: Path) -> list[str]:
    """The names under which the file has text."""
    with _open(path) as file:
        fields = file.schema_arrow
        if NESTED in fields.names:
            fields = fields.field(NESTED).type
        return [one.name for one in fields if str(one.type) in ("string", "large_string")]


def _bytes(text: str | None) -> bytes:
    return (text or "").encode()


def _open(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise CorpusError(
            f"{path}: Parquet is read by pyarrow, which is missing here; install it with: pip "
            "install pyarrow"
        ) from None
    try:
        return ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CorpusError:
    reason = " ".join(str(error).split())
    return CorpusError(f"{path}: not a whole Parquet file ({reason}); get the file again")
