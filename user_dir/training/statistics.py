"""Statistics of a run beside its checkpoints, written by its first process.

They are made of the logging outputs that all processes have added up anyway; what is on a device
is read there only where a record is due.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from user_dir.reporting.statistics_file import SCHEMA, append_record
from user_dir.training.layer_records import layer_records

logger = logging.getLogger(__name__)


class RunStatistics:
    """Adds up updates and batches of validations, and writes a record where one is due.

    Args:
        path: of the file.
        interval: updates of a record.
        directions: names of those that layers count by.
        histogram: told (name, values, updates) of each layer's loads; None: nobody asks.
    """

    def __init__(
        self,
        path: Path,
        *,
        interval: int,
        directions: Sequence[str],
        histogram: Callable[[str, Any, int], None] | None = None,
    ):
        self._path, self._interval, self._directions = path, interval, directions
        self._histogram = histogram
        self._training, self._validation = _Totals(), _Totals()
        self._clock: float | None = None  # when the last update ended; None: something came between

    def write(self, kind: str, updates: int, values: Mapping[str, Any]) -> None:
        """Write a record; where that fails, say so once and train on without statistics."""
        record = {"kind": kind, "schema": SCHEMA, "time": round(time.time(), 1), "updates": updates}
        try:
            append_record(self._path, {**record, **values})
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s); training goes on without", self._path, error.strerror
            )
            self._interval = 0

    def begin_update(self) -> None:
        """What came before, such as a validation, is not an update's time."""
        self._clock = self._clock or time.monotonic()

    def pause(self) -> None:
        """Something else than an update follows."""
        self._clock = None

    def add_update(self, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add the logging outputs of an update, summed over all processes."""
        if self._interval:
            self._training.add(logging_outputs)

    def add_validation(self, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add those of a batch of a validation."""
        if self._interval:
            self._validation.add(logging_outputs)

    def end_update(self, updates: int, values: Callable[[], Mapping[str, Any]]) -> None:
        """Write a record if one is due after this update.

        Args:
            values: further values, asked for if needed.
        """
        now = time.monotonic()
        self._training.seconds += now - (self._clock or now)
        self._clock = now
        if not self._interval or updates % self._interval or not self._training.sums:
            return
        totals, self._training = self._training, _Totals()
        self._write("train", updates, totals, values())

    def end_validation(self, updates: int, values: Mapping[str, Any]) -> None:
        """Write the record of a validation of one subset."""
        totals, self._validation = self._validation, _Totals()
        if self._interval and totals.sums:
            self._write("valid", updates, totals, values)

    def _write(self, kind: str, updates: int, totals: "_Totals", values: Mapping[str, Any]) -> None:
        layers = layer_records(totals.sums, self._directions)
        self.write(kind, updates, {**totals.scalars(), **values, "layers": layers})
        for name, layer in layers.items() if self._histogram else ():
            load = np.array(layer["load"], dtype=np.float64)
            if self._histogram is not None and load.any():
                self._histogram(f"{kind}/{name}/load", load / load.mean(), updates)


class _Totals:
    def __init__(self) -> None:
        self.batches, self.seconds = 0, 0.0
        self.sums: dict[str, Any] = {}

    def add(self, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        self.batches += 1
        for output in logging_outputs:
            for key, value in output.items():
                self.sums[key] = self.sums[key] + value if key in self.sums else value

    def scalars(self) -> dict[str, float]:
        """Losses in bits a token, and speed."""
        size, tokens = float(self.sums["sample_size"]), float(self.sums["ntokens"])
        scalars: dict[str, float] = {"batches": self.batches, "tokens": int(tokens)}
        losses = {"loss": size, "nll_loss": tokens, "moe_gate_loss": size}
        for name, whole in losses.items():
            if name in self.sums and whole:
                base = 1.0 if name == "moe_gate_loss" else math.log(2)
                scalars[name] = float(f"{float(self.sums[name]) / whole / base:.6g}")
        if self.seconds:
            scalars["seconds"] = round(self.seconds, 3)
            scalars["tokens_per_second"] = round(tokens / self.seconds, 1)
        return scalars
