"""What ended a run, in a sentence that says what would do."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from user_dir.errors import UserError, is_out_of_memory, reason_of


class OfOneProcess(UserError):
    """What this process alone has met: of several each says its own."""


class OutOfMemory(OfOneProcess):
    """A process of several ran out of memory: the others would pair its batches with wrong ones."""


class NotFinite(UserError):
    """Training has diverged."""


class LostPeers(OfOneProcess):
    """Other processes ended, or did not answer in time."""


class SetupFailed(Exception):
    """What fairseq raised before training began, of whatever type; its cause is that."""


@contextmanager
def setting_up() -> Iterator[None]:
    """Where what fairseq raises is mostly about the options or the data."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise SetupFailed from error


_LONGEST = 300  # letters of what fairseq says
_SILENCE = re.compile(
    r"timed? ?out (waiting|after)|wait timeout|socket timeout|timeout waiting", re.IGNORECASE
)
_LOSS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket closed|failed to recv|"
    r"remote process exited|NCCL communicator was aborted",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException, *, process_index: int, num_processes: int) -> OutOfMemory:
    """What to raise where a process runs out of memory and must not go on."""
    who = f"process {process_index} of {num_processes}" if num_processes > 1 else "training"
    return OutOfMemory(
        f"{who} ran out of memory ({reason_of(error)}); run the same command with a smaller "
        "--max-tokens, and a larger --update-freq for the same batch, to go on from the "
        "last checkpoint"
    )


def explain(
    error: BaseException, *, process_index: int, num_processes: int, timeout_minutes: float
) -> UserError | None:
    """The sentence for what ended a run; None if its traceback is what there is to say."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return cause
    for cause in chain:
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
            return OfOneProcess(str(cause))
        if is_out_of_memory(cause):
            return out_of_memory(cause, process_index=process_index, num_processes=num_processes)
    for cause in chain if num_processes > 1 else ():
        if _says(cause, _SILENCE):
            return LostPeers(
                f"process {process_index} of {num_processes} heard nothing from the others for "
                f"{timeout_minutes:g} minutes (--distributed-timeout-minutes): one of them hangs "
                "or is much slower; run the same command to resume from the last checkpoint"
            )
        if isinstance(cause, ConnectionError) or _says(cause, _LOSS):
            return LostPeers(
                f"process {process_index} of {num_processes} lost the connection to another one, "
                "which has ended; run the same command to resume from the last checkpoint"
            )
    if isinstance(error, SetupFailed):
        return _refused_by_fairseq(chain[1])
    return None


def _refused_by_fairseq(error: BaseException) -> UserError:
    """What fairseq says, and where, which tells more where it says little."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}, {frame.line}"
    said = " ".join(str(error).split())
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]} …"
    return UserError(
        f"fairseq cannot begin with these options and data: {type(error).__name__}"
        f"{': ' if said else ''}{said} ({where}); --debug shows more"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what was being handled when it was raised."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _says(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return isinstance(error, RuntimeError) and pattern.search(str(error)) is not None
