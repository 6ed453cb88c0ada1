"""Translations beside their references, the best and the worst ones; scores with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from user_dir.reporting.figures import WIDTH, Figure, Spec
from user_dir.reporting.runs import Run
from user_dir.text.scoring.score_tables import scored_together
from user_dir.text.scoring.scores import pool_words, score
from user_dir.text.scoring.test_sets import Translated
from user_dir.text.scoring.tokenizers import tokenizer_for

_RESAMPLINGS = 300
# Lines of a direction that examples are picked from, directions with examples, length of a line.
_MOST_LINES, _MOST_DIRECTIONS, _MOST_CHARACTERS = 300, 40, 600
_EACH = 3  # best, and worst
_BLEU_WORDS = 4  # in a row, the most that BLEU counts

Kind = Literal["same", "missing", "added"]


@dataclass(frozen=True)
class Example:
    """A line; what the reference lacks is `added`, what the translation lacks `missing`."""

    source: str
    reference: str
    marked: list[tuple[Kind, str]]
    chrf: float


@dataclass(frozen=True)
class Examples:
    """Of a direction."""

    direction: str
    best: list[Example]
    worst: list[Example]


@dataclass(frozen=True)
class ScoreRow:
    """The scores of a run on a direction, or on all of them together."""

    run: str
    direction: str
    lines: int
    bleu: float | None  # None: no reference is as long as what it counts, and it would be 0
    half_width: float  # of BLEU's 95 % interval by resampling
    chrf_pp: float
    exact: float


def score_rows(runs: Sequence[Run]) -> list[ScoreRow]:
    """Scores by direction, and of all lines together where there are several."""
    rows = []
    for run in runs:
        for one in run.translated:
            rows.append(_row(run.name, str(one.test_set.direction), [one]))
        if len(run.translated) > 1:
            rows.append(_row(run.name, "all", run.translated))
    return sorted(rows, key=lambda row: (row.direction == "all", row.direction))


def _row(run: str, name: str, translated: Sequence[Translated]) -> ScoreRow:
    parts = scored_together(translated)
    scores = score(parts)
    words = pool_words(parts, [tokenizer_for(part.target) for part in parts])
    is_defined = any(
        len(line.split()) >= _BLEU_WORDS for references in words[1] for line in references
    )
    # Resampled words that were cut before; the score itself is the one of every other table.
    sampled = BLEU(tokenize="none", force=True).corpus_score(*words, n_bootstrap=_RESAMPLINGS)
    return ScoreRow(
        run=run,
        direction=name,
        lines=scores.lines,
        bleu=scores.bleu if is_defined else None,
        half_width=float(getattr(sampled, "_ci", 0.0)),
        chrf_pp=scores.chrf_pp,
        exact=scores.exact,
    )


def score_figure(rows: Sequence[ScoreRow]) -> list[Figure]:
    """BLEU by direction with intervals, run beside run."""
    known = [(row, row.bleu) for row in rows if row.bleu is not None]
    if not known:
        return []
    runs = list(dict.fromkeys(row.run for row, _ in known))
    values = [
        {
            "run": row.run,
            "direction": row.direction,
            "BLEU": round(bleu, 2),
            "low": round(bleu - row.half_width, 2),
            "high": round(bleu + row.half_width, 2),
        }
        for row, bleu in known
    ]
    shared: Spec = {
        "y": {"field": "direction", "type": "nominal", "sort": None, "title": None},
        "color": {"field": "run", "scale": {"domain": runs}, "legend": None},
        "tooltip": [{"field": name} for name in ("run", "direction", "BLEU", "low", "high")],
    }
    height: Spec = {"step": 18}
    if len(runs) > 1:
        shared["yOffset"] = {"field": "run", "sort": None}
        shared["color"]["legend"] = {"title": None, "columns": 1}
        height = {"step": 9, "for": "offset"}
    axis = {"type": "quantitative", "title": "BLEU", "scale": {"zero": True}}
    layers = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {**shared, "x": {"field": "low", **axis}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 45},
            "encoding": {**shared, "x": {"field": "BLEU", **axis}},
        },
    ]
    spoken = ", ".join(f"{row.run} {row.direction} {bleu:.1f}" for row, bleu in known)
    return [
        Figure(
            key="scores",
            title="BLEU by direction",
            alternative=f"BLEU with 95 % intervals: {spoken}.",
            spec={
                "width": WIDTH - 20,
                "height": height,
                "data": {"values": values},
                "layer": layers,
            },
            note="Lines are 95 % intervals from resampling the test set.",
        )
    ]


def examples(translated: Sequence[Translated]) -> list[Examples]:
    """The best and the worst lines of each direction by chrF, the same ones every time."""
    metric = CHRF()
    found = []
    for one in translated[:_MOST_DIRECTIONS]:
        test_set = one.test_set
        lines = list(zip(test_set.sources, test_set.references, one.translations, strict=True))
        lines = lines[:: -(-len(lines) // _MOST_LINES) or 1]
        ranked = sorted(
            (_example(*line, metric.sentence_score(line[2], [line[1]]).score) for line in lines),
            key=lambda example: -example.chrf,
        )
        num_best = min(_EACH, len(ranked) // 2)
        worst = ranked[num_best:][-_EACH:][::-1]
        found.append(Examples(str(test_set.direction), ranked[:num_best], worst))
    return found


def _example(source: str, reference: str, translation: str, chrf: float) -> Example:
    source, reference, translation = (
        text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " …"
        for text in (source, reference, translation)
    )
    return Example(source, reference, mark_differences(translation, reference), chrf)


def mark_differences(translation: str, reference: str) -> list[tuple[Kind, str]]:
    """The translation in pieces, and the pieces of the reference that it lacks where they belong.

    By words; by characters where neither has any space.
    """
    joint = " " if " " in f"{reference.strip()}{translation.strip()}" else ""
    ours = translation.split() if joint else list(translation)
    theirs = reference.split() if joint else list(reference)
    pieces: list[tuple[Kind, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", joint.join(ours[a:b])))
            continue
        if b > a:
            pieces.append(("added", joint.join(ours[a:b])))
        if d > c:
            pieces.append(("missing", joint.join(theirs[c:d])))
    return pieces
