"""How a large corpus is laid out on disk, and what it is made of and with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from user_dir.cli.preparing.large_options import LargeOptions
from user_dir.text.corpus import SPLITS, side_name
from user_dir.text.large.encoding import Limits, TextPair
from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class Folder:
    """Where everything lies below --out; `work` goes once the corpus is complete."""

    out: Path

    @property
    def work(self) -> Path:
        return self.out / "work"

    @property
    def segmentation_files(self) -> list[Path]:
        """What tells how the text is cut; which of them are there depends on how it is."""
        return [self.out / name for name in ("spm.model", "spm.vocab", "post-process.txt")]

    @property
    def dictionary(self) -> Path:
        return self.work / "pieces" / "dict.txt"

    def text(self, split: str, pair: Pair, part: str = "") -> TextPair:
        """Cleaned text, from which subwords are learned."""
        return _files(self.work / "text" / part, split, pair)

    def raw(self, split: str, pair: Pair) -> TextPair:
        """What is scored against."""
        return _files(self.out / "raw", split, pair)

    def pieces(self, split: str, pair: Pair) -> TextPair:
        """The same lines in pieces."""
        return _files(self.work / "pieces", split, pair)

    def counts(self, pair: Pair) -> Path:
        """How often each piece occurs in the pair's training text."""
        return self.work / "pieces" / f"counts.{pair}.tsv"

    def binary(self, pair: Pair) -> Path:
        """One pair binarised, before all of them come together in bin."""
        return self.work / "binarised" / str(pair)


@dataclass(frozen=True)
class PairText:
    """The cleaned text of a pair: the files of each split, and how many training pairs."""

    pair: Pair
    parts: Mapping[str, Sequence[TextPair]]
    train_lines: Sequence[int]  # of each training part

    @property
    def splits(self) -> list[str]:
        """The splits that the pair has."""
        return [split for split in SPLITS if self.parts.get(split)]


DETECTED = "detected"


@dataclass(frozen=True)
class Cutting:
    """What cuts the text into pieces: an existing model, or who wrote it; else a learned model.

    `pre_tokenized` is the marker of pieces that the text has already, or DETECTED.
    """

    model: Path | None = None
    pre_tokenized: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the pieces depend on, if they are not learned."""
        model = self.model.stat() if self.model else None
        given = {
            "spm_model": model and [model.st_size, model.st_mtime_ns],
            "pre_tokenized": self.pre_tokenized,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """How the cleaned text becomes a corpus."""

    folder: Folder
    directions: list[Pair]
    limits: Mapping[str, Limits]
    given: LargeOptions
    options: dict[str, Any]  # that cleaning the text depends on
    inputs: list[list[Any]]  # name, size and time of what it was read from
    cutting: Cutting = field(default=Cutting())

    @property
    def text_settings(self) -> dict[str, Any]:
        """What the cleaned text depends on."""
        return self.options | {"directions": self.given.directions, "inputs": self.inputs}

    @property
    def subword_settings(self) -> dict[str, Any]:
        """What the subwords depend on."""
        names = ("vocab_size", "input_sentence_size", "character_coverage")
        learned = {name: getattr(self.given, name) for name in names}
        return self.text_settings | (self.cutting.settings or learned)

    @property
    def settings(self) -> dict[str, Any]:
        """What the binarised corpus depends on."""
        limits = {split: [limit.most, limit.ratio] for split, limit in self.limits.items()}
        return self.subword_settings | {"limits": limits}


def _files(folder: Path, split: str, pair: Pair) -> TextPair:
    source, target = (folder / side_name(split, pair, language) for language in pair.languages)
    return TextPair(source, target)
