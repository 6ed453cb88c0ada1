"""A parallel corpus in memory, and the text part of its prepared folder."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.lines import write_lines
from user_dir.text.pairs import Pair, languages_of, stored_pairs
from user_dir.text.subwords import Subwords

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

    def sides(self) -> Iterator[tuple[str, Pair, str, list[str]]]:
        """(split, pair, language, lines) of every file of the corpus, training first."""
        for split in SPLITS:
            for pair in self.pairs:
                for language, lines in zip(pair.languages, self.texts[split, pair], strict=True):
                    yield split, pair, language, lines

    def training_text(self) -> list[str]:
        """Every language's training lines, each distinct line once.

        A language with many partners would otherwise outweigh the others in the subwords.
        """
        distinct: dict[tuple[str, str], None] = {}
        for split, _, language, lines in self.sides():
            if split == "train":
                distinct.update(((language, line), None) for line in lines)
        return [line for _, line in distinct]


def side_name(split: str, pair: Pair, language: str) -> str:
    """The file name that fairseq expects of one side, such as train.en-de.de."""
    return f"{split}.{pair}.{language}"


def write_raw(corpus: Corpus, folder: Path) -> None:
    """Write every side as it is scored later."""
    folder.mkdir()
    for split, pair, language, lines in corpus.sides():
        write_lines(folder / side_name(split, pair, language), lines)


def write_pieces(corpus: Corpus, subwords: Subwords, folder: Path) -> None:
    """Write every side in pieces, and dict.txt, fairseq's dictionary for all languages."""
    folder.mkdir()
    train_counts: Counter[str] = Counter()
    for split, pair, language, lines in corpus.sides():
        name = side_name(split, pair, language)
        encoded = subwords.encode(lines)
        _refuse_lines_without_pieces(name, lines, encoded)
        write_lines(folder / name, encoded)
        if split == "train":
            train_counts.update(piece for line in encoded for piece in line.split(" "))
    write_lines(folder / "dict.txt", subwords.dictionary_lines(train_counts))


def write_language_lists(corpus: Corpus, folder: Path) -> None:
    """Write langs.txt for fairseq's --lang-dict and pairs.txt for its --lang-pairs."""
    write_lines(folder / "langs.txt", corpus.languages)
    write_lines(folder / "pairs.txt", [",".join(map(str, corpus.directions))])


def _refuse_lines_without_pieces(name: str, lines: list[str], encoded: list[str]) -> None:
    if "" in encoded:
        number = encoded.index("") + 1
        raise CorpusError(
            f"{name}, line {number}: nothing is left of {lines[number - 1]!a} for the subwords; "
            "remove this line from the files of all languages"
        )
