import dataclasses

import pytest

from user_dir.errors import CorpusError
from user_dir.text.corpus import SPLITS
from user_dir.text.sampling import share_out
from user_dir.text.sources.numbers import (
    DEFAULT_LANGUAGES,
    NumbersPlan,
    numbers_corpus,
    spell,
)

PLAN = NumbersPlan(
    languages=("de", "fr", "ru"),
    train_pairs_per_language=300,
    valid_lines=40,
    test_lines=100,
    max_digits=6,
    seed=1,
)


def english(corpus, split):
    return [line for pair in corpus.pairs for line in corpus.texts[split, pair][0]]


def test_no_held_out_number_is_trained_in_any_language():
    corpus = numbers_corpus(PLAN)
    train, valid, test = (set(english(corpus, split)) for split in SPLITS)
    assert not train & valid and not train & test and not valid & test
    for pair in corpus.pairs:
        train, valid, test = (set(corpus.texts[split, pair][1]) for split in SPLITS)
        assert not train & valid and not train & test and not valid & test


def test_both_sides_of_a_line_are_the_same_number():
    by_words = {spell(number, "en"): number for number in range(1000)}
    corpus = numbers_corpus(PLAN)
    compared = 0
    for pair in corpus.pairs:
        for source, target in zip(*corpus.texts["train", pair], strict=True):
            if source in by_words:
                assert target == spell(by_words[source], pair.target)
                compared += 1
    assert compared > 300


def test_numbers_of_every_length_are_drawn_evenly_and_all_short_ones_are_trained():
    lengths = {
        digits: {spell(n, "en") for n in range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)}
        for digits in (1, 2, 3)
    }
    corpus = numbers_corpus(PLAN)
    for pair in corpus.pairs:
        train = corpus.texts["train", pair][0]
        assert lengths[1] <= set(train)
        assert len(lengths[2] & set(train)) >= 55
        assert len(lengths[3] & set(train)) >= 55
        assert len(train) == len(set(train)) == 300


def test_line_counts_are_totals_over_languages_and_both_directions():
    corpus = numbers_corpus(PLAN)
    assert len(english(corpus, "valid")) * 2 == 40
    assert len(english(corpus, "test")) * 2 == 100
    assert [str(direction) for direction in corpus.directions] == [
        *("en-de", "de-en", "en-fr", "fr-en", "en-ru", "ru-en")
    ]


def test_the_seed_alone_decides():
    again, other = (numbers_corpus(dataclasses.replace(PLAN, seed=seed)) for seed in (1, 2))
    assert numbers_corpus(PLAN).texts == again.texts != other.texts


def test_every_default_language_writes_different_words_for_different_numbers():
    numbers = [*range(0, 2000, 3), *range(10_000, 1_000_000, 4567)]
    assert len(DEFAULT_LANGUAGES) >= 17
    for language in DEFAULT_LANGUAGES:
        assert len({spell(number, language) for number in numbers}) == len(numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ["de", "xx"]}, 'does not know "xx"'),
        ({"languages": ["de", "de"]}, '"de" is there twice'),
        ({"languages": ["en"]}, "must not name en"),
        ({"languages": ["am"]}, "cannot write .* in am"),
        ({"test_lines": 4}, r"--test-lines \(4\)"),
        ({"valid_lines": 41}, r"--valid-lines \(41\)"),
        ({"train_pairs_per_language": 0}, "--train-pairs-per-language"),
        ({"train_pairs_per_language": 2000, "max_digits": 3}, "only 9.. are to be had"),
        ({"max_digits": 30}, "--max-digits"),
    ],
)
def test_a_plan_that_cannot_be_met_is_refused(change, message):
    with pytest.raises(CorpusError, match=message):
        numbers_corpus(dataclasses.replace(PLAN, **change))


def test_a_language_that_writes_two_numbers_alike_or_nothing_is_refused(monkeypatch):
    for words, message in ("many", 'writes "many" for both'), ("", "writes nothing for"):
        by_language = {"en": str, "de": lambda number, words=words: words}
        monkeypatch.setattr(
            "user_dir.text.sources.numbers.num2words",
            lambda number, lang, by_language=by_language: by_language[lang](number),
        )
        with pytest.raises(CorpusError, match=message):
            numbers_corpus(PLAN)


def test_spread_is_as_even_as_possible():
    assert share_out([10, 2, 10], 12) == [5, 2, 5]
    assert share_out([1, 1], 5) == [1, 1]
    assert sum(share_out([9, 81, 810, 8100], 1000)) == 1000
