"""What a person sees of a run: a selection of fairseq's log, and how far the run is.

fairseq tells its figures in its log alone, so the console reads it there: as a handler of the log,
which fairseq writes in its format `json`.
"""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Collection
from functools import wraps

from user_dir.training.console.lines import checkpoint_line, update_line, validation_line
from user_dir.training.console.progress import Bars

# What a record of the log is marked with to be said on the console as well.
SAID = {"is_said": True}
# fairseq says these, too.
_SAVED = re.compile(r"Saved checkpoint (\S+) \(epoch \d+ @ (\d+) updates, .*writing took (\S+) sec")
_ENDED_EARLY = re.compile(r"early stop since ")
# Python's warnings: of what libraries think of each other, nothing that a user can mend.
_OF_PYTHON = "py.warnings"


def _while_somebody_looks(method: Callable) -> Callable:
    """Training goes on when its terminal, or what read its output, is gone."""

    @wraps(method)
    def careful(self: "Console", *args, **kwargs) -> None:
        if self.is_alone:
            return
        try:
            method(self, *args, **kwargs)
        except OSError:
            self.is_alone = True

    return careful


class Console(logging.Handler):
    """Lines on standard output, warnings on standard error, bars where that is a terminal.

    Args:
        subsets: names of the sets for validation.
        bars: whether there may be bars.

    Attributes:
        is_alone: nobody looks any more.
    """

    def __init__(self, *, subsets: Collection[str], bars: bool):
        super().__init__(logging.INFO)
        self.is_alone = False
        self._subsets = set(subsets)
        self._warned: set[str] = set()
        self._bars = Bars(is_on=bars and sys.stderr.isatty(), say=self.say)
        self._started: tuple[float, int] | None = None  # when, after which update
        self._updates, self._last, self._seconds_at_most = 0, math.inf, math.inf
        self._validation_began = time.monotonic()

    @_while_somebody_looks
    def say(self, line: str) -> None:
        """Print a line."""
        self._bars.write(line)

    @_while_somebody_looks
    def expect_updates(self, done: int, last: float, *, seconds_at_most: float) -> None:
        """Say that updates are coming.

        Args:
            done: those that have been made.
            last: number of the last one; not finite where nobody knows.
            seconds_at_most: until the run ends in any case.
        """
        now = time.monotonic()
        if self._started is None:
            self._started, self._seconds_at_most = (now, done), seconds_at_most
        self._updates, self._last = done, last
        self._bars.expect_updates(done, int(last) if math.isfinite(last) else None)

    @_while_somebody_looks
    def end_update(self, updates: int) -> None:
        """Say that so many updates have been made."""
        self._updates = updates
        self._bars.end_update(updates)

    @_while_somebody_looks
    def begin_validation(self, subset: str, batches: int) -> None:
        """Say that a set follows."""
        self._validation_began = time.monotonic()
        self._bars.begin_validation(subset, batches)

    @_while_somebody_looks
    def end_batch(self) -> None:
        """Say that one more batch of the set is done."""
        self._bars.end_batch()

    @_while_somebody_looks
    def _warn(self, kind: str, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._bars.write(f"scomoe-train: {kind}: {message}", to=sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Say what a person wants to know of a record, maybe nothing."""
        try:
            self._tell(record, record.getMessage())
        except Exception:  # as all handlers do: training does not end for it
            self.handleError(record)

    def close(self) -> None:
        """Take the bars away."""
        self._close_bars()
        super().close()

    @_while_somebody_looks
    def _close_bars(self) -> None:
        self._bars.close()

    def _tell(self, record: logging.LogRecord, message: str) -> None:
        if record.levelno >= logging.WARNING:
            if record.name != _OF_PYTHON:
                self._warn(record.levelname.lower(), message)
        elif record.name == "train_inner":
            self.say(update_line(json.loads(message), self._seconds_left()))
        elif record.name in self._subsets and message.startswith("{"):
            self._end_validation(record.name, message)
        elif saved := _SAVED.match(message):
            self.say(checkpoint_line(*saved.groups()))
        elif getattr(record, "is_said", False) or _ENDED_EARLY.match(message):
            self.say(message)

    @_while_somebody_looks
    def _end_validation(self, subset: str, message: str) -> None:
        self._bars.end_validation()
        seconds = time.monotonic() - self._validation_began
        self._bars.write(validation_line(subset, json.loads(message), seconds))

    def _seconds_left(self) -> float:
        """As long as the remaining updates take if they take as long as those of this start."""
        if self._started is None:
            return math.inf
        began, first = self._started
        passed = time.monotonic() - began
        made = self._updates - first
        left = (self._last - self._updates) * passed / made if made else math.inf
        return max(0.0, min(left, self._seconds_at_most - passed))
