"""What readers of both languages from one file have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from user_dir.text.large.parallel_lines import RawLines, in_chunks
from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class OneFile(ABC):
    """Two languages of a file, row by row."""

    pair: Pair
    path: Path

    @property
    def files(self) -> tuple[Path]:
        """What it is read from."""
        return (self.path,)

    @property
    def names(self) -> tuple[str, str]:
        """What messages call the two sides."""
        return str(self.path), str(self.path)

    @property
    def first(self) -> int:
        """The row that holds the first pair."""
        return 0

    def read(self) -> Iterator[RawLines]:
        """Some rows at a time; `CorpusError` for what is no such file or row."""
        yield from in_chunks(self._rows(), first=self.first)

    @abstractmethod
    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Both sides of every pair."""
