"""Scores of translations by sacrebleu: BLEU by the target's own words, chrF; exact ones by us."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from user_dir.errors import CorpusError
from user_dir.text.scoring.tokenizers import DEFAULT, Tokenizer, spbleu_tokenizer, tokenizer_for


@dataclass(frozen=True)
class Scored:
    """Translations into one language, and their references: a list of lines for each set of them.

    Raises `CorpusError` if there are no lines, or not as many as references.
    """

    target: str
    translations: Sequence[str]
    references: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for references in self.references:
            if len(self.translations) != len(references) or not references:
                raise CorpusError(
                    f"{len(self.translations)} translations cannot be scored against "
                    f"{len(references)} references; line N of both must be the same sentence"
                )


@dataclass(frozen=True)
class Scores:
    """How good translations are; all but the count in percent."""

    lines: int
    bleu: float  # by the words of the target language
    bleu_13a: float  # by sacrebleu's default words, as in older tables
    chrf: float
    chrf_pp: float  # chrF++, which counts words too
    exact: float
    spbleu: float | None = None


def score(parts: Sequence[Scored], *, spbleu: bool = False) -> Scores:
    """Score all lines together (corpus BLEU, not a mean), each by the words of its language.

    Args:
        parts: with equally many sets of references.
    """
    translations, references = pool(parts)
    exact = sum(line in of_line for line, *of_line in zip(translations, *references, strict=True))
    return Scores(
        lines=len(translations),
        bleu=_bleu(parts, [tokenizer_for(part.target) for part in parts]),
        bleu_13a=BLEU(tokenize=DEFAULT).corpus_score(translations, references).score,
        chrf=CHRF().corpus_score(translations, references).score,
        chrf_pp=CHRF(word_order=2).corpus_score(translations, references).score,
        exact=100 * exact / len(translations),
        spbleu=_bleu(parts, [spbleu_tokenizer()] * len(parts)) if spbleu else None,
    )


def signatures(
    targets: Iterable[str], *, spbleu: bool = False, references: int | None = 1
) -> dict[str, str]:
    """sacrebleu's signatures: what anyone needs to compute the same numbers; and what is missing.

    Args:
        targets: the languages that were translated into.
        references: how many there are for a line; None: not the same for all.
    """
    tokenizers = {target: tokenizer_for(target) for target in sorted(set(targets))}
    by_name: dict[str, list[str]] = {}
    for target, tokenizer in tokenizers.items():
        by_name.setdefault(tokenizer.name, []).append(target)
    metrics: dict[str, BLEU | CHRF] = {
        "BLEU" if len(by_name) == 1 else f"BLEU into {', '.join(into)}": BLEU(tokenize=name)
        for name, into in by_name.items()
    }
    if set(by_name) != {DEFAULT}:
        metrics["BLEU 13a"] = BLEU(tokenize=DEFAULT)
    metrics |= {"chrF": CHRF(), "chrF++": CHRF(word_order=2)}
    if spbleu:
        metrics["spBLEU"] = BLEU(tokenize=spbleu_tokenizer().name)
    found = {name: _signature(metric, references) for name, metric in metrics.items()}
    notes = [one.note for one in tokenizers.values() if one.note]
    return found | ({"note": "; ".join(notes)} if notes else {})


def pool(parts: Sequence[Scored]) -> tuple[list[str], list[list[str]]]:
    """All lines of all parts: translations, and each set of references."""
    translations = [line for part in parts for line in part.translations]
    sets = zip(*(part.references for part in parts), strict=True)
    return translations, [[line for of_part in one for line in of_part] for one in sets]


def pool_words(
    parts: Sequence[Scored], tokenizers: Sequence[Tokenizer]
) -> tuple[list[str], list[list[str]]]:
    """The same cut into words, each part by a tokenizer of its own."""
    return pool(
        [
            Scored(part.target, cutter.cut(part.translations), [*map(cutter.cut, part.references)])
            for part, cutter in zip(parts, tokenizers, strict=True)
        ]
    )


def _bleu(parts: Sequence[Scored], tokenizers: Sequence[Tokenizer]) -> float:
    names = {one.name for one in tokenizers}
    if len(names) == 1:
        return BLEU(tokenize=names.pop()).corpus_score(*pool(parts)).score
    # Cut by now, each language by its own words.
    return BLEU(tokenize="none", force=True).corpus_score(*pool_words(parts, tokenizers)).score


def _signature(metric: BLEU | CHRF, references: int | None) -> str:
    metric.corpus_score(["a"], [["a"]] * (references or 1))  # only a metric that was used has one
    signature = str(metric.get_signature())
    return signature if references else signature.replace("nrefs:1", "nrefs:var")
