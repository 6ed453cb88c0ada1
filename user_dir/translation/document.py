"""Lines that are translated in place, in whatever order their batches come back."""

from collections.abc import Iterator, Sequence

from user_dir.errors import UserError
from user_dir.text.pairs import Pair
from user_dir.translation.batching import BatchLimits, make_batches
from user_dir.translation.decoding import Batch


class Document:
    """Lines of pieces, each of which its translation replaces, so that nothing is held twice.

    Args:
        lines: pieces with spaces between; an empty line is its own translation.
        direction: as of `Batch`.
    """

    def __init__(self, lines: list[str], *, direction: Pair | None = None):
        self._lines, self.direction = lines, direction
        self._is_waiting = bytearray(map(bool, lines))

    @property
    def num_waiting(self) -> int:
        """How many lines have no translation yet."""
        return self._is_waiting.count(1)

    def batches(self, limits: BatchLimits) -> Iterator[tuple[list[int], Batch]]:
        """Yield (indices of lines, their batch) for all lines that are not empty."""
        for indices in make_batches(self._lines, limits):
            yield indices, Batch([self._lines[index] for index in indices], self.direction)

    def put(self, indices: Sequence[int], texts: Sequence[str]) -> None:
        """Put the translations of a batch in their places."""
        for index, text in zip(indices, texts, strict=True):
            self._lines[index] = text
            self._is_waiting[index] = 0

    def translated(self) -> list[str]:
        """A translation for every line.

        Raises:
            UserError: one is missing.
        """
        if self.num_waiting:
            raise UserError(
                f"{self.num_waiting} of {len(self._lines)} lines have no translation, the first of "
                f"them is line {self._is_waiting.index(1) + 1}; nothing was written. Please report "
                "this"
            )
        return self._lines
