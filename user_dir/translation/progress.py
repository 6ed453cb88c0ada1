"""How far a translation is, on standard error."""

import sys
import time

from user_dir.translation.decoding import Translation

_SECONDS_BETWEEN_REPORTS = 5.0


class Progress:
    """Counts lines and pieces that are translated, and tells of them at intervals if it is on."""

    def __init__(self, command: str, num_lines: int, *, is_on: bool):
        self.command, self.num_lines, self.is_on = command, num_lines, is_on
        self.done = self.pieces = 0
        self.start = self.reported = time.monotonic()

    def add(self, translations: list[Translation]) -> None:
        """Count what a batch gave."""
        self.done += len(translations)
        self.pieces += sum(len(translation.pieces.split()) for translation in translations)
        if time.monotonic() - self.reported >= _SECONDS_BETWEEN_REPORTS:
            self._report("translated")

    def finish(self) -> None:
        """Report once more; from now on `seconds` stands still."""
        self._report("finished:")

    @property
    def seconds(self) -> float:
        """From the start to the last report."""
        return max(self.reported - self.start, 1e-9)

    def _report(self, what: str) -> None:
        self.reported = time.monotonic()
        seconds = self.seconds
        if self.is_on:
            print(
                f"{self.command}: {what} {self.done} of {self.num_lines} lines in {seconds:.1f} s "
                f"({self.done / seconds:.1f} lines/s, {self.pieces / seconds:.0f} tokens/s)",
                file=sys.stderr,
                flush=True,
            )
