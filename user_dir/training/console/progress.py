"""How far training and a validation are: bars on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable
from typing import IO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 60.0


class Bars:
    """A bar for the updates, and below it one for the validation under way.

    Args:
        is_on: whether standard error is a terminal that may be drawn on.
        say: prints a line, of a long validation where there are no bars.
    """

    def __init__(self, *, is_on: bool, say: Callable[[str], None]):
        self._is_on, self._say = is_on, say
        self._updates: tqdm | None = None
        self._batches: tqdm | None = None
        self._subset, self._done, self._whole = "", 0, 0
        self._said_at = 0.0

    def write(self, line: str, *, to: IO[str] | None = None) -> None:
        """Print a line above the bars, on standard output unless told otherwise."""
        if self._is_on:
            tqdm.write(line, file=to or sys.stdout)
            (to or sys.stdout).flush()
        else:
            print(line, file=to, flush=True)

    def expect_updates(self, done: int, last: int | None) -> None:
        """Updates are coming, up to the last one as far as it is known."""
        if not self._is_on:
            return
        if self._updates is None:
            self._updates = _bar("training", total=last, initial=done, unit="update")
        self._updates.total = last

    def end_update(self, updates: int) -> None:
        """So many are done now."""
        if self._updates is not None:
            self._updates.update(updates - self._updates.n)

    def begin_validation(self, subset: str, batches: int) -> None:
        """Batches of a subset are coming."""
        self.end_validation()
        self._subset, self._done, self._whole = subset, 0, batches
        self._said_at = time.monotonic()
        if self._is_on:
            self._batches = _bar(f"validation on {subset}", total=batches, unit="batch")

    def end_batch(self) -> None:
        """One more batch of the validation is done."""
        self._done += 1
        if self._batches is not None:
            self._batches.update()
        elif not self._is_on and time.monotonic() > self._said_at + _SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            self._say(f"validation  {self._subset}: {self._done} of {self._whole} batches")

    def end_validation(self) -> None:
        """No more batches are coming."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def close(self) -> None:
        """Take the bars away."""
        self.end_validation()
        if self._updates is not None:
            self._updates.close()
            self._updates = None


def _bar(name: str, *, total: int | None, unit: str, initial: int = 0) -> tqdm:
    return tqdm(
        desc=name,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
    )
