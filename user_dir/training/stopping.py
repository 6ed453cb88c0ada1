"""Stopping a run on request, on all processes at the same point.

A signal reaches processes at different times; if they acted on it at once, some would save while
others train on, and each would wait for the other. So a request travels with the logging outputs
that all processes add up after every update and every batch of a validation, and takes effect
where the sum is known.
"""

import os
import signal

_is_requested = False
_is_agreed = False


class StopAgreed(Exception):
    """All processes leave the training loop here, after the same update."""


def request_stop_on_signals() -> None:
    """Take SIGUSR1 for a request; under Slurm SIGTERM too.

    Slurm sends SIGTERM when a job is preempted or its time is over, and SIGKILL soon after.
    """
    signal.signal(signal.SIGUSR1, request_stop)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, request_stop)


def request_stop(*_) -> None:
    """Ask for a stop at the next point of agreement; also a signal handler."""
    global _is_requested
    _is_requested = True


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
