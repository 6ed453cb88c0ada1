"""Scores of many directions: a row for each, and rows that sum them up."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from user_dir.text.pairs import Pair
from user_dir.text.scoring.scores import Scored, Scores, score
from user_dir.text.scoring.test_sets import Translated

Group = tuple[str, Callable[[Pair], bool]]

# Least training pairs of a class.
_RESOURCES = (
    ("high resource (from 0.9 M)", 900_000),
    ("medium resource (0.1 to 0.9 M)", 100_000),
    ("low resource (below 0.1 M)", 0),
)


@dataclass(frozen=True)
class Row:
    """The scores of one direction or of several."""

    name: str
    directions: int
    scores: Scores

    def record(self) -> dict[str, Any]:
        """The row with all digits, for JSON."""
        return {"name": self.name, "directions": self.directions, **asdict(self.scores)}


def direction_row(translated: Translated, *, spbleu: bool = False) -> Row:
    """The scores of one direction, under its name."""
    return Row(str(translated.test_set.direction), 1, _pooled([translated], spbleu=spbleu))


def language_groups(pivot: str) -> list[Group]:
    """Out of the pivot language, into it, and everything."""
    return [
        (f"from {pivot}", lambda direction: direction.source == pivot),
        (f"into {pivot}", lambda direction: direction.target == pivot),
        ("all", lambda direction: True),
    ]


def resource_groups(train_pairs: Mapping[Pair, int]) -> list[Group]:
    """Directions by their training pairs, in the classes usual for OPUS-100.

    None where all directions are of one class: the mean of all says the same.
    """
    classes: dict[str, set[Pair]] = {}
    for direction, count in train_pairs.items():
        name = next(name for name, least in _RESOURCES if count >= least)
        classes.setdefault(name, set()).add(direction)
    if len(classes) < 2:
        return []
    return [(name, classes[name].__contains__) for name, _ in _RESOURCES if name in classes]


def mean_rows(rows: Sequence[Row], groups: Sequence[Group]) -> list[Row]:
    """For each group with several directions, the mean of their scores: each weighs the same."""
    means = []
    for name, is_member in groups:
        members = [row for row in rows if is_member(Pair(*row.name.split("-")))]
        if len(members) > 1:
            means.append(Row(f"mean {name}", len(members), _mean([row.scores for row in members])))
    return means


def pooled_rows(translated: Sequence[Translated], groups: Sequence[Group]) -> list[Row]:
    """For each group, all lines scored together: short test sets count as one long one."""
    rows = []
    for name, is_member in groups:
        members = [one for one in translated if is_member(one.test_set.direction)]
        if members:
            rows.append(Row(name, len(members), _pooled(members)))
    return rows


def score_table(
    rows: Sequence[Row], *, left_out: Collection[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and cells; BLEU by 13a where that is another one, spBLEU where it was asked for.

    Args:
        left_out: columns that a short table does without.
    """
    columns = {"BLEU": [row.scores.bleu for row in rows]}
    by_13a = [row.scores.bleu_13a for row in rows]
    if by_13a != columns["BLEU"]:
        columns["BLEU 13a"] = by_13a
    spbleu = [row.scores.spbleu for row in rows if row.scores.spbleu is not None]
    if spbleu:
        columns["spBLEU"] = spbleu
    columns["chrF"] = [row.scores.chrf for row in rows]
    columns["chrF++"] = [row.scores.chrf_pp for row in rows]
    columns["exact %"] = [row.scores.exact for row in rows]
    columns = {name: column for name, column in columns.items() if name not in left_out}
    values = zip(*columns.values(), strict=True)
    cells = [
        [
            row.name,
            str(row.directions),
            str(row.scores.lines),
            *(f"{value:.1f}" for value in of_row),
        ]
        for row, of_row in zip(rows, values, strict=True)
    ]
    return ["", "directions", "lines", *columns], cells


def scored_together(translated: Sequence[Translated]) -> list[Scored]:
    """What is scored of several translations, with as many references as all of them have."""
    fewest = min(len(one.test_set.all_references) for one in translated)
    return [
        Scored(
            one.test_set.direction.target,
            one.translations,
            one.test_set.all_references[:fewest],
        )
        for one in translated
    ]


def num_references(translated: Sequence[Translated]) -> int | None:
    """How many references a line has; None if that depends on the direction."""
    counts = {len(one.test_set.all_references) for one in translated}
    return counts.pop() if len(counts) == 1 else None


def _pooled(translated: Sequence[Translated], *, spbleu: bool = False) -> Scores:
    return score(scored_together(translated), spbleu=spbleu)


def _mean(scores: Sequence[Scores]) -> Scores:
    count = len(scores)
    spbleus = [one.spbleu for one in scores]
    return Scores(
        lines=sum(one.lines for one in scores),
        bleu=sum(one.bleu for one in scores) / count,
        bleu_13a=sum(one.bleu_13a for one in scores) / count,
        chrf=sum(one.chrf for one in scores) / count,
        chrf_pp=sum(one.chrf_pp for one in scores) / count,
        exact=sum(one.exact for one in scores) / count,
        spbleu=None if None in spbleus else sum(one or 0 for one in spbleus) / count,
    )
