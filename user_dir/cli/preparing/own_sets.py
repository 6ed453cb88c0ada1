"""The sets that --train, --valid and --test name, by language pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError
from user_dir.text.corpus import SPLITS
from user_dir.text.large.cleaning import ParallelText
from user_dir.text.pairs import Pair, languages_of, parse_directions, with_language_names
from user_dir.text.sources.own_text import find_texts


@dataclass(frozen=True)
class Sets:
    """The texts of each pair and split, and how many sentences are held out of training text."""

    texts: dict[Pair, dict[str, list[ParallelText]]]
    held_out: dict[str, int]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs, each once for both directions."""
        return list(self.texts)

    @property
    def files(self) -> list[Path]:
        """Every file, each once."""
        found = (
            path
            for splits in self.texts.values()
            for texts in splits.values()
            for text in texts
            for path in text.files
        )
        return list(dict.fromkeys(found))

    def needed_for(self, directions: Sequence[Pair]) -> "Sets":
        """The sets without the pairs of which no direction is wanted."""
        wanted = [pair for pair in self.texts if {pair, pair.reversed()} & {*directions}]
        return Sets({pair: self.texts[pair] for pair in wanted}, self.held_out)

    def record(self) -> dict[str, Any]:
        """Which files are what, for the settings of stages."""
        return {
            str(pair): {
                split: [[str(text.pair), *(path.name for path in text.files)] for text in texts]
                for split, texts in splits.items()
            }
            for pair, splits in self.texts.items()
        }


def find_sets(
    given: Mapping[str, Sequence[Sequence[Path]]],
    *,
    held_out: Mapping[str, int | None],
    languages: Pair | None,
) -> Sets:
    """Read what was named; `CorpusError` says what is missing or not wanted.

    `given` holds for each split the files that each of its flags names, and `held_out` the
    numbers of --valid-lines and --test-lines.
    """
    if not given["train"]:
        raise CorpusError("--train is missing; name two files such as corpus.en corpus.de")
    texts: dict[Pair, dict[str, list[ParallelText]]] = {}
    for split in SPLITS:
        for paths in given[split]:
            for text in find_texts(paths, split, languages=languages):
                _put(texts, text, split)
    for split, lines in held_out.items():
        without = [str(pair) for pair, splits in texts.items() if not splits[split]]
        if lines is not None and not without:
            raise CorpusError(
                f"--{split}-lines ({lines}): every pair has a --{split} set; leave one of them out"
            )
    if held_out["valid"] is None and not given["valid"]:
        raise CorpusError(
            "--valid is missing, and training needs validation text; name some, or hold some out "
            "of --train with --valid-lines 1000"
        )
    return Sets(texts, {split: lines for split, lines in held_out.items() if lines is not None})


def _put(texts: dict[Pair, dict[str, list[ParallelText]]], text: ParallelText, split: str) -> None:
    """Add a text to its pair, which the first training text in these languages has named."""
    known = next((one for one in (text.pair, text.pair.reversed()) if one in texts), None)
    if known is None:
        if split != "train":
            raise CorpusError(
                f"--{split} ({' '.join(map(str, text.files))}): no --train has text in "
                f"{text.pair}; there is {', '.join(map(str, texts))}"
            )
        known = text.pair
        texts[known] = {name: [] for name in SPLITS}
    texts[known][split].append(text)


def chosen_directions(given: str | None, pairs: Sequence[Pair]) -> list[Pair]:
    """The directions of --directions, or those that the pairs suggest.

    Raises `CorpusError` if there is no text for one.
    """
    if given is None:
        return [*pairs] if len(pairs) == 1 else [one for p in pairs for one in (p, p.reversed())]
    named = with_language_names(given, languages_of([*pairs]))
    directions = parse_directions(named, flag="--directions")
    for one in directions:
        if one not in pairs and one.reversed() not in pairs:
            raise CorpusError(
                f'--directions ({given}): there is no text for "{one}"; there is '
                f"{', '.join(map(str, pairs))}"
            )
    return directions
