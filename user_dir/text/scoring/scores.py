"""Scores of translations: BLEU and chrF by sacrebleu, and the share of exact translations."""

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from user_dir.errors import CorpusError


@dataclass(frozen=True)
class Scores:
    """How good translations are; all but the count in percent."""

    lines: int
    bleu: float
    chrf: float
    exact: float


def score(translations: Sequence[str], references: Sequence[str]) -> Scores:
    """Score lines against one reference each, all lines together (corpus BLEU, not a mean).

    Raises `CorpusError` if there are no lines, or not as many as references.
    """
    if len(translations) != len(references) or not references:
        raise CorpusError(
            f"{len(translations)} translations cannot be scored against {len(references)} "
            "references; line N of both must be the same sentence"
        )
    exact = sum(ours == wanted for ours, wanted in zip(translations, references, strict=True))
    return Scores(
        lines=len(references),
        bleu=BLEU().corpus_score(translations, [references]).score,
        chrf=CHRF().corpus_score(translations, [references]).score,
        exact=100 * exact / len(references),
    )


def signatures() -> dict[str, str]:
    """sacrebleu's signatures of BLEU and chrF: what anyone needs to compute the same numbers."""
    found = {}
    for name, metric in ("BLEU", BLEU()), ("chrF", CHRF()):
        metric.corpus_score(["a"], [["a"]])  # only a metric that was used has one
        found[name] = str(metric.get_signature())
    return found
