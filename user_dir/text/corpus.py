"""A parallel corpus in memory, and the names and lists that fairseq looks for."""

from dataclasses import dataclass
from pathlib import Path

from user_dir.text.lines import write_lines
from user_dir.text.pairs import Pair, languages_of, stored_pairs

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Corpus:
    """Cleaned parallel text: `texts[split, pair]` holds the two sides of a stored pair."""

    directions: list[Pair]
    texts: dict[tuple[str, Pair], tuple[list[str], list[str]]]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that are stored, each once for both directions."""
        return stored_pairs(self.directions)

    @property
    def languages(self) -> list[str]:
        """Every language, sorted."""
        return languages_of(self.directions)


def side_name(split: str, pair: Pair, language: str) -> str:
    """The file name that fairseq expects of one side, such as train.en-de.de."""
    return f"{split}.{pair}.{language}"


def write_language_lists(directions: list[Pair], folder: Path) -> None:
    """Write langs.txt for fairseq's --lang-dict and pairs.txt for its --lang-pairs."""
    write_lines(folder / "langs.txt", languages_of(directions))
    write_lines(folder / "pairs.txt", [",".join(map(str, directions))])
