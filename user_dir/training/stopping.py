"""Stopping a run on request, on all processes at the same point.

A signal reaches processes at different times; if they acted on it at once, some would save while
others train on, and each would wait for the other. So a request travels with the logging outputs
that all processes add up after every update and every batch of a validation, and takes effect
where the sum is known.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_is_requested = False
_is_agreed = False
_is_interrupted = False

INTERRUPTED = 128 + signal.SIGINT  # the exit status of what Ctrl-C ended
_INTERRUPTION = (
    b"scomoe-train: interrupted: saving, then ending; Ctrl-C again ends at once, with the "
    b"checkpoints as they were last saved\n"
)
_END = (
    b"scomoe-train: interrupted; checkpoints are as they were last saved: run the same command to "
    b"resume\n"
)


class StopAgreed(Exception):
    """All processes leave the training loop here, after the same update."""


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Meanwhile Ctrl-C ends this process at once, until it can take it for a request.

    Python would raise an exception, at which torch aborts while it is imported.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as in the background, and where a parent sees to it
        signal.signal(signal.SIGINT, lambda *_: os._exit(tell_end_by_interrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def tell_end_by_interrupt() -> int:
    """Say that nothing more was saved, once for all processes; returns the status."""
    if os.environ.get("RANK", "0") == "0":
        # Not by print: the signal may have come while it was at work.
        os.write(2, _END)
    return INTERRUPTED


def request_stop_on_signals(*, interruption: signal.Signals, speaks: bool) -> None:
    """Take SIGUSR1 and Ctrl-C for a request; under Slurm SIGTERM too.

    Slurm sends SIGTERM when a job is preempted or its time is over, and SIGKILL soon after.

    Args:
        interruption: what says that Ctrl-C was pressed. It says so once: from then on it does to
            the process what it does to others, at once.
        speaks: whether this is the process that tells the user what follows.
    """
    signal.signal(signal.SIGUSR1, request_stop)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, request_stop)
    own = os.getpid()

    def interrupt(*_) -> None:
        global _is_interrupted
        if os.getpid() != own:  # a reader of data, which inherits this and gets Ctrl-C as well
            return
        signal.signal(interruption, signal.SIG_DFL)
        _is_interrupted = True
        request_stop()
        if speaks:
            os.write(2, _INTERRUPTION)

    if signal.getsignal(interruption) is not signal.SIG_IGN:  # as of a job in the background
        signal.signal(interruption, interrupt)


def request_stop(*_) -> None:
    """Ask for a stop at the next point of agreement; also a signal handler."""
    global _is_requested
    _is_requested = True


def is_interrupted() -> bool:
    """Whether it was Ctrl-C that asked this process to stop."""
    return _is_interrupted


def num_requests() -> int:
    """What this process adds to the sum of requests."""
    return int(_is_requested)


def agree(sum_of_requests: float) -> None:
    """Note whether any process was asked to stop; called with the same sum on all of them."""
    global _is_agreed
    _is_agreed = _is_agreed or sum_of_requests > 0


def stop_if_agreed() -> None:
    """Raise `StopAgreed` once a stop is agreed on."""
    if _is_agreed:
        raise StopAgreed
