"""What there is of a run: its statistics or its log, its state, and what of it is missing."""

import fcntl
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from user_dir.errors import UserError
from user_dir.reporting.statistics_file import STATISTICS, read_records
from user_dir.text.scoring.evaluation_folder import read_evaluation
from user_dir.text.scoring.test_sets import Translated
from user_dir.text.scoring.train_log import records

_LOG = "train.log"
_LOCK = "scomoe-train.lock"
_EVALUATION = "evaluation"
_LATE = 5  # languages are shown of the last fifth of a run
Record = dict[str, Any]


@dataclass
class Run:
    """A run under a name that no other one of the page has; records in the order of updates."""

    name: str
    folder: Path
    starts: list[Record]
    train: list[Record]
    valid: list[Record]
    translated: list[Translated]
    state: str = ""
    missing: list[str] = field(default_factory=list)  # sentences

    @property
    def about(self) -> Record:
        """What the run is, as of its last start."""
        return self.starts[-1] if self.starts else {}

    @property
    def updates(self) -> int:
        return max((record["updates"] for record in (*self.train, *self.valid)), default=0)

    @property
    def late(self) -> list[Record]:
        """The last records of training, whose directions are told apart."""
        return self.train[_start_of_late(len(self.train)) :]

    @property
    def layers(self) -> list[str]:
        """The MoE layers, those of the encoder first."""
        return list(dict.fromkeys(name for one in self.train for name in one.get("layers", {})))


def read_runs(folders: Sequence[Path], evaluations: Sequence[Path]) -> list[Run]:
    """Read runs, finished or not.

    Args:
        evaluations: of the first runs, what scomoe-evaluate wrote; the folder `evaluation` in or
            beside a run is found without being named.

    Raises:
        UserError: a folder holds nothing of a run, or an evaluation that was named is none.
    """
    if len(evaluations) > len(folders):
        raise UserError(
            f"--evaluation is given {len(evaluations)} times, but there are {len(folders)} runs; "
            "one for each run, in their order, would do"
        )
    found = []
    for number, (folder, name) in enumerate(zip(folders, _names(folders), strict=True)):
        run = _read(folder, name)
        given = evaluations[number] if number < len(evaluations) else None
        run.translated, why_not = _translations(folder, given)
        run.missing += why_not
        found.append(run)
    return found


def _read(folder: Path, name: str) -> Run:
    run = Run(name, folder, [], [], [], [])
    path = folder / STATISTICS
    try:
        for record in read_records(path):
            _keep(record, run)
    except OSError as error:
        run.missing.append(
            f"Everything about experts: {path.name} cannot be read ({error.strerror}). "
            "scomoe-train writes it with --criterion moe_cross_entropy."
        )
    if not run.train and not run.valid:
        _read_log(run)
    if not run.train and not run.valid and not run.starts:
        raise UserError(
            f"{folder} holds neither {STATISTICS} nor a {_LOG} with --log-format json; name the "
            "--save-dir of a run of scomoe-train"
        )
    run.state = _state(run)
    _say_what_is_missing(run)
    return run


def _keep(record: Record, run: Run) -> None:
    """Add a record with what a page shows of it: a long run's numbers would fill the memory."""
    kind = record.get("kind")
    if kind == "run":
        run.starts.append(record)
    elif kind == "valid":
        record.pop("layers", None)
        run.valid.append(record)
    elif kind == "train":
        for layer in record.get("layers", {}).values():
            layer["load"] = array("q", layer["load"])
        run.train.append(record)
        start = _start_of_late(len(run.train))
        for early in run.train[max(0, start - 1) : start]:  # at most one leaves the last fifth
            for layer in early.get("layers", {}).values():
                layer.pop("by_direction", None)


def _start_of_late(number: int) -> int:
    return number - max(1, number // _LATE)


def _read_log(run: Run) -> None:
    """Losses and speed from fairseq's log, where there are no statistics."""
    try:
        text = (run.folder / _LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for record in records(text, "train_inner"):
        if "num_updates" in record:
            run.train.append(
                {
                    "updates": int(record["num_updates"]),
                    "loss": record.get("loss"),
                    "nll_loss": record.get("nll_loss"),
                    "tokens_per_second": record.get("wps"),
                    "lr": record.get("lr"),
                }
            )
    for record in records(text, "valid"):
        if "valid_num_updates" in record:
            values = {key: record.get(f"valid_{key}") for key in ("loss", "nll_loss", "bleu")}
            run.valid.append({"updates": int(record["valid_num_updates"]), **values})


def _state(run: Run) -> str:
    if _is_held(run.folder / _LOCK):
        return f"running, {run.updates} updates so far"
    last = run.about.get("options", {}).get("max_update") or 0
    if last and run.updates < last:
        return f"ended after {run.updates} of {last} updates; the same command goes on"
    return f"ended after {run.updates} updates"


def _is_held(path: Path) -> bool:
    """Whether a process has the run's folder; its lock goes with it."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _say_what_is_missing(run: Run) -> None:
    if not run.train:
        interval = run.about.get("options", {}).get("moe_statistics_interval", "?")
        run.missing.append(
            f"Curves of training: no update is recorded yet (--moe-statistics-interval {interval})."
        )
    if not run.valid:
        run.missing.append("Curves of validation: there has been none.")
    elif all(record.get("bleu") is None for record in run.valid):
        run.missing.append(
            "BLEU over time: validation measures it with --eval-bleu (scomoe_translation) only."
        )
    if run.train and not run.layers:
        run.missing.append("Everything about experts: no MoE layer is recorded.")
    elif run.layers and not any("by_direction" in layer for layer in _layers_of(run.train)):
        run.missing.append("Languages of the experts: the run has one direction.")


def _layers_of(taken: Sequence[Record]) -> list[Record]:
    return [layer for record in taken for layer in record.get("layers", {}).values()]


def _translations(folder: Path, given: Path | None) -> tuple[list[Translated], list[str]]:
    """Those of an evaluation, and why there are none."""
    if given is not None:
        return read_evaluation(given, flag="--evaluation"), []
    for place in folder / _EVALUATION, folder.parent / _EVALUATION:
        if place.is_dir():
            try:
                return read_evaluation(place, flag="--evaluation"), []
            except UserError as error:
                return [], [f"Scores and translations: {error}."]
    return [], [
        "Scores and translations: there is no evaluation of this run; translate a test set with "
        "scomoe-evaluate and name its --output with --evaluation."
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    """The last two parts of each path, or as many as tell it from the others."""
    parts = [folder.resolve().parts[1:] for folder in folders]
    longest = max(map(len, parts))
    for number in range(min(2, longest), longest + 1):
        names = ["/".join(part[-number:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("a run is named twice; name each of them once")
