"""How far a translation is, on standard error."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_REPORTS = 5.0  # in a file; a terminal's line is drawn anew all the time


class Progress:
    """Counts lines and their tokens, and shows rate and time left.

    Args:
        num_lines: how many there will be; None where nobody knows.
        is_on: whether to show it; None: where standard error is a terminal.
    """

    def __init__(self, command: str, num_lines: int | None, *, is_on: bool | None):
        on_terminal = sys.stderr.isatty()
        self._command = command
        self._is_on = on_terminal if is_on is None else is_on
        self._start = time.monotonic()
        self.seconds = 0.0
        self.lines = self.tokens = 0
        self._bar = tqdm(
            total=num_lines,
            desc=command,
            unit="line",
            file=sys.stderr,
            disable=not self._is_on,
            leave=False,
            dynamic_ncols=True,
            mininterval=0.1 if on_terminal else _SECONDS_BETWEEN_REPORTS,
        )

    def add(self, *, lines: int, tokens: int) -> None:
        """Count what was translated."""
        self.lines += lines
        self.tokens += tokens
        self._bar.update(lines)

    def finish(self) -> None:
        """Tell the whole; from now on `seconds` stands still."""
        self.seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.close()
        if self._is_on:
            print(
                f"{self._command}: finished: {self.lines} lines in {self.seconds:.1f} s "
                f"({self.lines / self.seconds:.1f} lines/s, "
                f"{self.tokens / self.seconds:.0f} tokens/s)",
                file=sys.stderr,
                flush=True,
            )
