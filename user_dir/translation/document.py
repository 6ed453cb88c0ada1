"""Lines that are translated in whatever order their batches come back, and leave in their own."""

from collections.abc import Iterator, Sequence

from user_dir.errors import UserError
from user_dir.text.pairs import Pair
from user_dir.translation.batching import BatchLimits, make_batches
from user_dir.translation.decoding import NOTHING, Batch, Translation


class Document:
    """Lines of pieces, and their translations as far as these are known.

    Args:
        lines: pieces with spaces between; an empty line is its own translation.
        direction, nbest: as of `Batch`.
    """

    def __init__(self, lines: Sequence[str], *, direction: Pair | None = None, nbest: int = 1):
        self._lines, self.direction, self._nbest = lines, direction, nbest
        self._translations = [None if line else NOTHING for line in lines]
        self._num_out = 0

    @property
    def num_waiting(self) -> int:
        """How many lines have no translation yet."""
        return self._translations.count(None)

    def batches(self, limits: BatchLimits) -> Iterator[tuple[list[int], Batch]]:
        """Yield (indices of lines, their batch) for all lines that are not empty."""
        for indices in make_batches(self._lines, limits):
            lines = [self._lines[index] for index in indices]
            yield indices, Batch(lines, self.direction, self._nbest)

    def put(self, indices: Sequence[int], translations: Sequence[Translation]) -> None:
        """Put the translations of a batch in their places."""
        for index, translation in zip(indices, translations, strict=True):
            self._translations[index] = translation

    def take_ready(self) -> Iterator[Translation]:
        """The translations that wait for no line before them, each of them once."""
        while self._num_out < len(self._lines):
            translation = self._translations[self._num_out]
            if translation is None:
                return
            self._num_out += 1
            yield translation

    def check_complete(self) -> None:
        """See that every line has a translation.

        Raises:
            UserError: one is missing.
        """
        if self.num_waiting:
            raise UserError(
                f"{self.num_waiting} of {len(self._lines)} lines have no translation, the first of "
                f"them is line {self._translations.index(None) + 1}. Please report this"
            )
