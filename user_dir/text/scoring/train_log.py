"""What fairseq wrote into the log of a training run (`--log-file`, `--log-format json`)."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import CorpusError


@dataclass(frozen=True)
class TrainLog:
    """The figures of a run, as far as the log goes."""

    updates: int
    wall_seconds: float
    tokens_per_second: float  # target tokens, the median over the log's intervals
    valid_nll: float | None  # of the last validation, in bits a token


def read_train_log(path: Path) -> TrainLog:
    """Read the log.

    Raises `CorpusError`, naming the file, if it is missing or holds no update.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    intervals = records(text, "train_inner")
    if not intervals:
        raise CorpusError(
            f"{path}: no update is logged there; train with --log-format json and --log-file"
        )
    validations = records(text, "valid")
    last = intervals[-1]
    return TrainLog(
        updates=int(last["num_updates"]),
        wall_seconds=last["wall"],
        tokens_per_second=statistics.median(record["wps"] for record in intervals),
        valid_nll=validations[-1]["valid_nll_loss"] if validations else None,
    )


def records(text: str, tag: str) -> list[dict[str, float]]:
    """The json records that a log holds under a tag: train_inner, train, valid."""
    marker = f"| {tag} | {{"
    found = [line.partition(marker)[2] for line in text.splitlines() if marker in line]
    return [
        {key: float(value) for key, value in json.loads("{" + record).items()} for record in found
    ]
