"""Two text files whose line N is the same sentence."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from user_dir.text.large.parallel_lines import RawLines, read_aligned
from user_dir.text.pairs import Pair
from user_dir.text.sources.formats.compressed import text_lines


@dataclass(frozen=True)
class TwoFiles:
    """The source and the target language's file of a pair, plain or compressed."""

    pair: Pair
    files: tuple[Path, Path]

    @property
    def names(self) -> tuple[str, str]:
        """What messages call the two sides."""
        return str(self.files[0]), str(self.files[1])

    def read(self) -> Iterator[RawLines]:
        """Both files in step."""
        source, target = map(text_lines, self.files)
        with closing(source), closing(target):
            yield from read_aligned(source, target, names=self.names)
