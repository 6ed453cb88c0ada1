"""What fairseq wrote into the log of a training run (`--log-file`, `--log-format json`)."""

import json
import math
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
            f"{path}: no update is logged there; train with --log-format json and --log-file"
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
    """The json records that a log holds under a tag: train_inner, train, valid.

    What is damaged, and values that are no numbers, are left out; NaN is one.
    """
    marker = f"| {tag} | {{"
    found = []
    for line in text.split("\n"):
        if marker in line:
            try:
                record = json.loads("{" + line.partition(marker)[2])
            except (ValueError, RecursionError):  # cut off, or two processes in one line
                continue
            values = {key: _number(value) for key, value in record.items()}
            found.append({key: value for key, value in values.items() if value is not None})
    return found


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
