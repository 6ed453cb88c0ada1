"""A parallel corpus without a download: numbers in words, English to and from many languages.

Numbers are drawn evenly over their lengths in digits (a uniform draw would almost never be
short). A share of the numbers of each length is held out for all languages at once, so that no
validation or test number is seen in training in any of them.
"""

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from num2words import CONVERTER_CLASSES, num2words

from user_dir.errors import CorpusError
from user_dir.text.corpus import SPLITS, Corpus
from user_dir.text.lines import clean_line
from user_dir.text.pairs import Pair
from user_dir.text.sampling import share_out

DEFAULT_LANGUAGES = (
    *("cs", "da", "de", "es", "fi", "fr", "hu", "id", "it", "nl"),
    *("no", "pl", "pt", "ro", "ru", "sl", "sv", "tr", "uk", "vi"),
)

# At most every tenth number of a length is held out: training has to know the short ones.
_HELD_OUT_SHARE = 10


@dataclass(frozen=True)
class NumbersPlan:
    """What `numbers_corpus` writes; lines count translations, each number gives two."""

    languages: Sequence[str]
    train_pairs_per_language: int
    valid_lines: int
    test_lines: int
    max_digits: int
    seed: int

    def __post_init__(self) -> None:
        _check_languages(self.languages)
        if self.max_digits not in range(3, 10):
            raise CorpusError(f"--max-digits ({self.max_digits}) must be between 3 and 9")
        if self.train_pairs_per_language < 1:
            raise CorpusError(
                f"--train-pairs-per-language ({self.train_pairs_per_language}) must be at least 1"
            )
        fewest = 2 * len(self.languages)
        for flag, lines in ("--valid-lines", self.valid_lines), ("--test-lines", self.test_lines):
            if lines < fewest or lines % 2:
                raise CorpusError(
                    f"{flag} ({lines}) must be even and at least {fewest}: a number gives one line "
                    f"in each direction, and each of {len(self.languages)} languages needs one"
                )


def numbers_corpus(plan: NumbersPlan) -> Corpus:
    """Draw the plan's numbers and spell them out; deterministic with the plan's seed."""
    rng = random.Random(plan.seed)
    held_out = _held_out_pools(plan, rng)
    taken = frozenset(number for pools in held_out.values() for pool in pools for number in pool)
    wanted = {
        "valid": _even_parts(plan.valid_lines // 2, len(plan.languages)),
        "test": _even_parts(plan.test_lines // 2, len(plan.languages)),
    }
    pairs = [Pair("en", language) for language in plan.languages]
    texts = {}
    for index, pair in enumerate(pairs):
        numbers = {"train": _draw_training(plan, rng, taken)}
        for split, counts in wanted.items():
            numbers[split] = _draw(rng, held_out[split], counts[index], flag=f"--{split}-lines")
        sides = {split: _spell_pair(numbers[split], pair) for split in SPLITS}
        _refuse_ambiguous(pair, numbers, sides)
        texts.update({(split, pair): sides[split] for split in SPLITS})
    directions = [direction for pair in pairs for direction in (pair, pair.reversed())]
    return Corpus(directions=directions, texts=texts)


def spell(number: int, language: str) -> str:
    """The number in words, normalised as the subwords do it (NFKC), so that decoding returns it."""
    try:
        words = num2words(number, lang=language)
    except Exception as error:  # num2words' languages fail in many ways
        raise CorpusError(
            f"--languages: num2words cannot write {number} in {language} ({error}); leave it out"
        ) from None
    return clean_line(unicodedata.normalize("NFKC", words))


def _check_languages(languages: Sequence[str]) -> None:
    for index, language in enumerate(languages):
        if language == "en":
            raise CorpusError("--languages must not name en: English is in every pair anyway")
        if language not in CONVERTER_CLASSES:
            raise CorpusError(
                f'--languages: num2words does not know "{language}"; it knows '
                f"{', '.join(sorted(set(CONVERTER_CLASSES) - {'en'}))}"
            )
        if language in languages[:index]:
            raise CorpusError(f'--languages: "{language}" is there twice; once would do')


def _numbers_of_length(digits: int) -> range:
    return range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def _held_out_pools(plan: NumbersPlan, rng: random.Random) -> dict[str, list[list[int]]]:
    """For valid and test, the numbers of 2, 3, … digits that they draw from; all different.

    Single digits are all trained: "zero" appears in no longer number.
    """
    pools: dict[str, list[list[int]]] = {"valid": [], "test": []}
    for digits in range(2, plan.max_digits + 1):
        numbers = _numbers_of_length(digits)
        most_wanted = (plan.valid_lines + plan.test_lines) // 2
        sample = rng.sample(numbers, min(len(numbers) // _HELD_OUT_SHARE, most_wanted))
        share = len(sample) * plan.valid_lines // (plan.valid_lines + plan.test_lines)
        pools["valid"].append(sample[:share])
        pools["test"].append(sample[share:])
    return pools


def _draw_training(plan: NumbersPlan, rng: random.Random, taken: frozenset[int]) -> list[int]:
    """Different numbers of every length that are not held out, in random order."""
    lengths = [_numbers_of_length(digits) for digits in range(1, plan.max_digits + 1)]
    held = [sum(number in numbers for number in taken) for numbers in lengths]
    available = [len(numbers) - count for numbers, count in zip(lengths, held, strict=True)]
    counts = share_out(available, plan.train_pairs_per_language)
    _check_enough(sum(counts), plan.train_pairs_per_language, flag="--train-pairs-per-language")
    drawn = []
    for numbers, count, excluded in zip(lengths, counts, held, strict=True):
        # Enough of them that `count` are left without the held-out ones.
        sample = rng.sample(numbers, min(len(numbers), count + excluded))
        drawn += [number for number in sample if number not in taken][:count]
    rng.shuffle(drawn)
    return drawn


def _draw(rng: random.Random, pools: list[list[int]], total: int, *, flag: str) -> list[int]:
    counts = share_out([len(pool) for pool in pools], total)
    _check_enough(sum(counts), total, flag=flag)
    drawn = [
        number
        for pool, count in zip(pools, counts, strict=True)
        for number in rng.sample(pool, count)
    ]
    rng.shuffle(drawn)
    return drawn


def _check_enough(found: int, wanted: int, *, flag: str) -> None:
    if found < wanted:
        raise CorpusError(
            f"{flag} asks for {wanted} different numbers in a language, but only {found} are to be "
            "had; ask for fewer, or for longer numbers with --max-digits"
        )


def _even_parts(total: int, parts: int) -> list[int]:
    return [total // parts + (index < total % parts) for index in range(parts)]


def _spell_pair(numbers: list[int], pair: Pair) -> tuple[list[str], list[str]]:
    source, target = ([spell(number, lang) for number in numbers] for lang in pair.languages)
    return source, target


def _refuse_ambiguous(
    pair: Pair, numbers: dict[str, list[int]], sides: dict[str, tuple[list[str], list[str]]]
) -> None:
    """Two numbers in the same words: a wrong reference, and a test line seen in training."""
    first_number: dict[str, int] = {}
    for split, values in numbers.items():
        for number, words in zip(values, sides[split][1], strict=True):
            if not words:
                raise CorpusError(
                    f"--languages: num2words writes nothing for {number} in {pair.target}; "
                    "leave it out"
                )
            if first_number.setdefault(words, number) != number:
                raise CorpusError(
                    f'--languages: num2words writes "{words}" for both {first_number[words]} and '
                    f"{number} in {pair.target}; leave it out"
                )
