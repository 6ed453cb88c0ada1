"""A sentence pair a line, with a tab between its sides."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.sources.formats.compressed import text_lines
from user_dir.text.sources.formats.one_file import OneFile


@dataclass(frozen=True)
class TabSeparated(OneFile):
    """Two columns of a file; where the first line names the columns, it is no pair."""

    columns: tuple[int, int] = (0, 1)
    has_header: bool = False

    @property
    def first(self) -> int:
        """The row that holds the first pair."""
        return int(self.has_header)

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        source, target = self.columns
        with closing(text_lines(self.path)) as lines:
            numbered = enumerate(lines, start=1)
            for number, line in islice(numbered, self.first, None):
                cells = line.split(b"\t")
                if len(cells) <= max(self.columns):
                    raise CorpusError(
                        f"{self.path}, line {number}: has {len(cells)} column(s), but column "
                        f"{max(self.columns) + 1} is needed; put a tab between the two sentences"
                    )
                yield cells[source], cells[target]


def first_cells(path: Path) -> list[str]:
    """The cells of the first line, which may name the columns; none of an empty file."""
    with closing(text_lines(path)) as lines:
        first = next(lines, b"")
    return first.decode("utf-8-sig", errors="replace").strip("\r\n").split("\t")
