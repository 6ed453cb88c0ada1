"""fairseq's whole log in a file beside the checkpoints."""

import logging
import sys
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = "train.log"
# As fairseq prints it, so that readers of its logs read this one.
_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
_DATE = "%Y-%m-%d %H:%M:%S"


class TrainLog(logging.FileHandler):
    """Adds to the log of a run; where it cannot be written, says so once and does without.

    Args:
        folder: that of the checkpoints.
        process_index: said of what other processes than the first write.
    """

    def __init__(self, folder: Path, *, process_index: int = 0):
        # Opened with the first record: not before the folder is there.
        super().__init__(folder / NAME, mode="a", encoding="utf-8", delay=True)
        process = f"process {process_index} | " if process_index else ""
        self.setFormatter(logging.Formatter(_FORMAT.replace("%(m", f"{process}%(m"), _DATE))
        self._is_broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, at once."""
        if self._is_broken:
            return
        try:
            super().emit(record)
        except OSError as error:  # it cannot be opened
            self._do_without(error)

    def handleError(self, record: logging.LogRecord) -> None:
        """A record could not be written, or not be put into words."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._do_without(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """What a full disk does not take is lost, and the run ends as it would have."""
        with suppress(OSError):
            super().close()

    def _do_without(self, error: OSError) -> None:
        self._is_broken = True
        logger.warning(
            "%s cannot be written (%s); training goes on without", self.baseFilename, error.strerror
        )
