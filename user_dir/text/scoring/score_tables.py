"""Scores of many directions: a row for each, and rows that sum them up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from user_dir.text.pairs import Pair
from user_dir.text.scoring.scores import Scores, score
from user_dir.text.scoring.test_sets import Translated

HEADER = ("", "directions", "lines", "BLEU", "chrF", "exact %")

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

    def cells(self) -> list[str]:
        """The row of a table below `HEADER`."""
        scores = self.scores
        values = (scores.bleu, scores.chrf, scores.exact)
        return [
            self.name,
            str(self.directions),
            str(scores.lines),
            *(f"{value:.1f}" for value in values),
        ]

    def record(self) -> dict[str, Any]:
        """The row with all digits, for JSON."""
        return {"name": self.name, "directions": self.directions, **asdict(self.scores)}


def direction_row(translated: Translated) -> Row:
    """The scores of one direction, under its name."""
    return Row(str(translated.test_set.direction), 1, _pooled([translated]))


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


def _pooled(translated: Sequence[Translated]) -> Scores:
    return score(
        [line for one in translated for line in one.translations],
        [line for one in translated for line in one.test_set.references],
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    count = len(scores)
    return Scores(
        lines=sum(one.lines for one in scores),
        bleu=sum(one.bleu for one in scores) / count,
        chrf=sum(one.chrf for one in scores) / count,
        exact=sum(one.exact for one in scores) / count,
    )
