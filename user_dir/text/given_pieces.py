"""Text that somebody has cut into pieces: how these join to words again."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.lines import write_lines
from user_dir.text.subwords import FAIRSEQ_SYMBOLS

# By fairseq's names (--post-process): "@@" ends a piece within a word, "▁" begins a word.
SUBWORD_NMT, SENTENCEPIECE, WORDS = "subword_nmt", "sentencepiece", "none"
MARKERS = (SUBWORD_NMT, SENTENCEPIECE, WORDS)
FILE_NAME = "post-process.txt"

# Among the different pieces of a text; few words of anything else look like this by chance.
_LEAST_SHARE = 0.02

_RESERVED = re.compile(rf" (?:{'|'.join(sorted(FAIRSEQ_SYMBOLS - {'<unk>'}))})(?= )")


class GivenPieces:
    """What `Subwords` does with text, for text that is in pieces already.

    Args:
        marker: one of MARKERS.
    """

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def encode(self, lines: Sequence[str]) -> list[str]:
        """Each line as it is, pieces with spaces between; one that means something to fairseq goes.

        A "<pad>" in some text must never become its padding.
        """
        return [
            _RESERVED.sub(" <unk>", f" {line} ").strip() if "<" in line else line for line in lines
        ]

    def decode(self, encoded: str) -> str:
        """The text of a line of pieces."""
        if self.marker == SUBWORD_NMT:
            return f"{encoded} ".replace("@@ ", "").strip()
        if self.marker == SENTENCEPIECE:
            return encoded.replace(" ", "").replace("▁", " ").strip()
        return encoded

    def text_of(self, line: str) -> str:
        """A line of the corpus as it is scored."""
        return self.decode(line)

    def save(self, folder: Path) -> None:
        """Write which it is, under the name that fairseq-generate takes after --post-process."""
        write_lines(folder / FILE_NAME, [self.marker])

    def dictionary_lines(self, train_counts: Counter[str]) -> list[str]:
        """fairseq's dictionary: every piece of the training text, most frequent first."""
        pieces = sorted(
            {*train_counts} - FAIRSEQ_SYMBOLS, key=lambda piece: (-train_counts[piece], piece)
        )
        return [f"{piece} {train_counts[piece]}" for piece in pieces]


def read_marker(path: Path) -> GivenPieces:
    """What `GivenPieces.save` wrote; `CorpusError` if it is something else."""
    marker = path.read_text(encoding="utf-8", errors="replace").strip()
    if marker not in MARKERS:
        raise CorpusError(f"{path} must hold one of {', '.join(MARKERS)}, not {marker[:40]!a}")
    return GivenPieces(marker)


def detect_marker(pieces: Iterable[str]) -> str:
    """Which marker the different pieces of a text have."""
    total = 0
    counts = Counter({SUBWORD_NMT: 0, SENTENCEPIECE: 0})
    for piece in pieces:
        total += 1
        counts[SUBWORD_NMT] += piece.endswith("@@")
        counts[SENTENCEPIECE] += piece.startswith("▁")
    marker, count = counts.most_common(1)[0]
    return marker if count > _LEAST_SHARE * total else WORDS
