"""Debian's package descriptions as a parallel corpus: English and many languages.

A text is known by its English sentence. The split is made over all languages at once, whatever
the directions: a held-out sentence and its near-duplicates are trained in no language.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.corpus import Corpus
from user_dir.text.pairs import Pair, languages_of, parse_directions, stored_pairs
from user_dir.text.sources.debian_lists import ENGLISH, read_list
from user_dir.text.sources.debian_text import Description, align, read_descriptions
from user_dir.text.splits import (
    Groups,
    HeldOut,
    hold_out,
    unite_equal,
    unite_near_duplicates,
    words_of,
)

# Larger groups are templates: for training, where they are worth the most.
_LARGEST_HELD_OUT_GROUP = 10
_FEWEST_WORDS = 3  # of a held-out sentence

# language -> English sentence -> translation -> how many descriptions have it
ManyWay = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True)
class DebianPlan:
    """What is held out and what is trained."""

    test_sentences: int
    valid_sentences: int
    least_languages: int  # of a held-out sentence, besides English
    max_pairs: int | None
    seed: int


def read_many_way(lists: Mapping[str, Sequence[Path]]) -> ManyWay:
    """Every sentence that is translated, English among the languages."""
    english = {one.md5: one for one in _descriptions(lists, ENGLISH)}
    texts: dict[str, dict[str, dict[str, int]]] = {ENGLISH: {}}
    for language in lists:
        if language == ENGLISH:
            continue
        texts[language] = {}
        for pair in align(english, _descriptions(lists, language)):
            found = texts[language].setdefault(pair.english, {})
            found[pair.translation] = found.get(pair.translation, 0) + 1
            texts[ENGLISH].setdefault(pair.english, {pair.english: 1})
    return texts


def choose_directions(directions: str, texts: ManyWay, *, min_sentences: int) -> list[Pair]:
    """The directions in a list, or for "all" both between English and every language.

    Of these, languages with fewer than `min_sentences` are left out. Raises `CorpusError` for a
    language that is not there, or if none is left.
    """
    if directions == "all":
        others = [language for language in texts if language != ENGLISH]
        kept = [language for language in others if len(texts[language]) >= min_sentences]
        if not kept:
            raise CorpusError(
                f"--min-sentences ({min_sentences}): no language has so many; the most are "
                f"{max(len(texts[language]) for language in others)}"
            )
        pairs = [Pair(ENGLISH, language) for language in kept]
        return [one for pair in pairs for one in (pair, pair.reversed())]
    chosen = parse_directions(directions, flag="--directions")
    for language in languages_of(chosen):
        if language not in texts:
            raise CorpusError(
                f'--directions ({directions}): there are no descriptions in "{language}"; there '
                f"are in {', '.join(texts)}"
            )
    return chosen


def split_debian(texts: ManyWay, directions: list[Pair], plan: DebianPlan) -> Corpus:
    """Training, validation and test text; deterministic with the plan's seed.

    Held-out sentences are shared: each pair has those that exist in both languages, in the most
    frequent translation. Training has every distinct translation, or `max_pairs` of a pair.
    """
    sentences = list(texts[ENGLISH])
    held_out = _hold_out(texts, sentences, plan)
    sets = {name: [sentences[number] for number in held_out.sets[name]] for name in held_out.sets}
    excluded = {sentences[number] for number in held_out.siblings}.union(*sets.values())
    trained = [sentence for sentence in sentences if sentence not in excluded]
    corpus = Corpus(directions, {})
    for pair in stored_pairs(directions):
        source, target = (texts[language] for language in pair.languages)
        rows = [
            row
            for sentence in _shared(trained, source, target)
            for row in product(source[sentence], target[sentence])
        ]
        _add(corpus, "train", pair, _capped(rows, plan.max_pairs, seed=f"{plan.seed} {pair}"))
        for name, held in sets.items():
            rows = [
                (_most_frequent(source[sentence]), _most_frequent(target[sentence]))
                for sentence in _shared(held, source, target)
            ]
            _add(corpus, name, pair, rows)
    return corpus


def _descriptions(lists: Mapping[str, Sequence[Path]], language: str) -> Iterator[Description]:
    for path in lists[language]:
        yield from read_descriptions(read_list(path), language)


def _hold_out(texts: ManyWay, sentences: Sequence[str], plan: DebianPlan) -> HeldOut:
    groups = Groups(len(sentences))
    unite_near_duplicates(groups, sentences)
    others = [texts[language] for language in texts if language != ENGLISH]
    for other in others:
        unite_equal(
            groups,
            (
                (number, translation)
                for number, sentence in enumerate(sentences)
                for translation in other.get(sentence, ())
            ),
        )
    least = min(plan.least_languages, len(others))
    num_languages = [sum(sentence in other for other in others) for sentence in sentences]
    candidates = [
        number
        for number, sentence in enumerate(sentences)
        if num_languages[number] >= least and len(words_of(sentence)) >= _FEWEST_WORDS
    ]
    wanted = {"test": plan.test_sentences, "valid": plan.valid_sentences}
    held_out = hold_out(
        groups,
        sorted(candidates, key=lambda number: -num_languages[number]),
        wanted,
        seed=plan.seed,
        largest_group=_LARGEST_HELD_OUT_GROUP,
    )
    found = sum(map(len, held_out.sets.values()))
    if found < sum(wanted.values()):
        raise CorpusError(
            f"--test-sentences ({plan.test_sentences}) and --valid-sentences "
            f"({plan.valid_sentences}): only {found} sentences that are no near-duplicates of each "
            f"other exist in {least} languages; ask for fewer sentences, or for fewer languages "
            "of each with --least-languages"
        )
    return held_out


def _shared(
    sentences: Sequence[str],
    source: Mapping[str, Mapping[str, int]],
    target: Mapping[str, Mapping[str, int]],
) -> list[str]:
    return [sentence for sentence in sentences if sentence in source and sentence in target]


def _most_frequent(translations: Mapping[str, int]) -> str:
    return max(translations, key=lambda one: translations[one])  # the first of equals


def _capped(rows: list[tuple[str, str]], most: int | None, *, seed: str) -> list[tuple[str, str]]:
    if most is None or len(rows) <= most:
        return rows
    drawn = random.Random(seed).sample(range(len(rows)), most)
    return [rows[number] for number in sorted(drawn)]


def _add(corpus: Corpus, split: str, pair: Pair, rows: list[tuple[str, str]]) -> None:
    if not rows:
        raise CorpusError(
            f"--directions: {split} has no sentence of {pair}, which is too rare a pair here; "
            "leave it out"
        )
    sides = [list(side) for side in zip(*rows, strict=True)]
    corpus.texts[split, pair] = sides[0], sides[1]
