"""Systems side by side: paired bootstrap resampling by sacrebleu's own classes.

The first system is the baseline. A difference is marked where fewer than 5 of 100 resamplings of
the test set would show it by chance (Koehn, 2004).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

from user_dir.errors import CorpusError
from user_dir.text.scoring.scores import Scored, pool, pool_words
from user_dir.text.scoring.tokenizers import tokenizer_for

SIGNIFICANT = 0.05
METRICS = ("BLEU", "chrF++")


@dataclass(frozen=True)
class Interval:
    """A system's score by one metric."""

    score: float
    half_width: float  # of its 95 % interval
    p_value: float | None  # that it is no other than the baseline; None for the baseline itself

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Compared:
    """All systems on one direction, or on several together: by metric, a system after the other."""

    name: str
    lines: int
    systems: tuple[str, ...]
    by_metric: Mapping[str, tuple[Interval, ...]]


def compare(name: str, systems: Mapping[str, Sequence[Scored]], *, samples: int) -> Compared:
    """Score systems on the same lines, and test how they differ from the first of them.

    Args:
        name: of the direction, or of what several are together.
        systems: by the system's name, its translations; with the same references.
        samples: how often the test set is drawn anew.

    Raises:
        CorpusError: the references differ.
    """
    baseline, *_ = systems.values()
    for system, parts in systems.items():
        if [part.references for part in parts] != [part.references for part in baseline]:
            raise CorpusError(
                f"{name}: {system} was scored against other references than "
                f"{next(iter(systems))}; evaluate both on the same test set"
            )
    tokenizers = [tokenizer_for(part.target) for part in baseline]
    _, words = pool_words(baseline, tokenizers)
    _, texts = pool(baseline)
    cut = {system: pool_words(parts, tokenizers)[0] for system, parts in systems.items()}
    whole = {system: pool(parts)[0] for system, parts in systems.items()}
    return Compared(
        name=name,
        lines=len(texts[0]),
        systems=tuple(systems),
        by_metric={
            "BLEU": _test(cut, words, BLEU(tokenize="none", force=True), samples),
            "chrF++": _test(whole, texts, CHRF(word_order=2), samples),
        },
    )


def _test(
    systems: Mapping[str, list[str]], references: list[list[str]], metric: BLEU | CHRF, samples: int
) -> tuple[Interval, ...]:
    test = PairedTest(
        list(systems.items()), {"metric": metric}, references, test_type="bs", n_samples=samples
    )
    _, results = test()
    (of_metric,) = (values for key, values in results.items() if key != "System")
    baseline, *_ = systems.values()
    intervals = []
    for translations, result in zip(systems.values(), of_metric, strict=True):
        assert isinstance(result, Result) and result.ci is not None
        p_value = result.p_value
        if p_value is not None and translations == baseline:
            p_value = 1.0  # sacrebleu takes it that no resampling differs for the opposite
        intervals.append(Interval(float(result.score), float(result.ci), p_value))
    return tuple(intervals)
