"""What fairseq wrote into the log of a training run, in its formats `simple` and `json`.

Its output has the kind of a line in front, which --log-file leaves out:

    2026-11-25 13:35:19 | INFO | train_inner | epoch 001:      2 / 8 loss=7.964, num_updates=2
    epoch 001 | valid on 'valid' subset | loss 6.962 | num_updates 8
    {"epoch": 1, "train_loss": "7.543", "train_num_updates": "8"}
"""

import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import CorpusError


@dataclass(frozen=True)
class TrainLog:
    """The figures of a run, as far as the log goes; None: it has none that is a number."""

    updates: int
    wall_seconds: float | None
    tokens_per_second: float | None  # target tokens, the median over the log's intervals
    valid_nll: float | None  # of the last validation, in bits a token


def read_train_log(path: Path) -> TrainLog:
    """Read the log; lines that were cut off are left out.

    Raises `CorpusError`, naming the file, if it is missing or holds no update.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    intervals = [record for record in records(text, "train_inner") if _get(record, "num_updates")]
    if not intervals:
        raise CorpusError(
            f"{path}: no update is logged there; name what training printed, or its --log-file, "
            "with --log-format json or simple and a --log-interval of no more than its updates"
        )
    speeds = [speed for record in intervals if (speed := _get(record, "wps")) is not None]
    validations = records(text, "valid")
    return TrainLog(
        updates=int(intervals[-1]["num_updates"]),
        wall_seconds=_get(intervals[-1], "wall"),
        tokens_per_second=statistics.median(speeds) if speeds else None,
        valid_nll=_get(validations[-1], "valid_nll_loss") if validations else None,
    )


def records(text: str, tag: str) -> list[dict[str, float]]:
    """The records that a log holds under a tag: train_inner, train, or the name of a valid subset.

    What is damaged, and values that are no numbers, are left out; NaN is one. Names are those of
    the json format, as in valid_loss.
    """
    found = []
    for line in text.split("\n"):
        before, marker, after = line.partition(f"| {tag} | ")
        body = after if marker else before
        record = _json_record(body) if body.startswith("{") else _simple_record(body)
        if record and (marker or _tag(record) == tag):
            values = {key: _number(value) for key, value in record.items()}
            found.append({key: value for key, value in values.items() if value is not None})
    return found


_INNER = re.compile(r"epoch \d+: +\d+ / \d+ (.*)")
_SUMMARY = re.compile(r"epoch \d+ \| (?:\S+ on '(\S+)' subset \| )?(.*)")


def _json_record(body: str) -> dict[str, object]:
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):  # cut off, or two processes in one line
        return {}
    return record if isinstance(record, dict) else {}


def _simple_record(body: str) -> dict[str, object]:
    inner = _INNER.match(body)
    if inner:
        return {name: value for name, _, value in _cut(inner[1], ", ", "=")}
    summary = _SUMMARY.match(body)
    if summary is None:
        return {}
    tag = summary[1] or "train"
    return {f"{tag}_{name}": value for name, _, value in _cut(summary[2], " | ", " ")}


def _cut(text: str, between: str, within: str) -> list[tuple[str, str, str]]:
    return [part.strip().partition(within) for part in text.split(between)]


def _tag(record: dict[str, object]) -> str | None:
    """What kind of line a record comes from, by the name that its number of updates has."""
    end = "num_updates"
    if end in record:
        return "train_inner"
    return next((key.removesuffix(f"_{end}") for key in record if key.endswith(f"_{end}")), None)


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _get(record: dict[str, float], name: str) -> float | None:
    value = record.get(name)
    return None if value is None or not math.isfinite(value) else value
