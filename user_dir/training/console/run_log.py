"""Where the log of a run goes while its console is on."""

import logging
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType

from user_dir.training.console.console import Console
from user_dir.training.console.train_log import TrainLog

_MANY = 10_000  # records, kept until the folder is ours


class RunLog:
    """Meanwhile the log goes to `train.log`, and the first process shows its console.

    Of the other processes warnings are logged, with their number.

    Args:
        folder: that of the checkpoints; None: nothing is to be written.
        subsets: names of the sets for validation.
        bars: whether the console may draw them.

    Attributes:
        console: of the first process; None in others.
    """

    def __init__(
        self, folder: Path | None, *, process_index: int, subsets: Sequence[str], bars: bool
    ):
        is_first = process_index == 0
        self.console = Console(subsets=subsets, bars=bars) if is_first else None
        self._early = MemoryHandler(_MANY, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._file: logging.Handler = logging.NullHandler()
        if folder is not None:
            self._file = TrainLog(folder, process_index=process_index)
        self._file.setLevel(logging.INFO if is_first else logging.WARNING)
        # Others come when the first has the folder, or write nothing.
        self._is_ours = not is_first or folder is None

    def __enter__(self) -> "RunLog":
        root = logging.getLogger()
        self._before = list(root.handlers)
        root.handlers[:] = [self._file if self._is_ours else self._early]
        if self.console is not None:
            root.addHandler(self.console)
        logging.captureWarnings(True)
        return self

    def begin_file(self) -> None:
        """The folder is this run's: write there, first what was logged so far."""
        if self._is_ours:
            return
        self._is_ours = True
        root = logging.getLogger()
        root.removeHandler(self._early)
        root.addHandler(self._file)
        self._early.setTarget(self._file)
        self._early.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and self._is_ours:
            self._file.handle(_record_of(error))
        if self.console is not None:
            self.console.close()
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = self._before
        self._file.close()


def _record_of(error: Exception) -> logging.LogRecord:
    """What the file says of the end, which standard error says as well."""
    known = (type(error), error, error.__traceback__)
    return logging.LogRecord("scomoe-train", logging.ERROR, "", 0, "%s", (error,), known)
