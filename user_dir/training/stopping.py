"""Stopping a run on request, on all processes after the same update.

A signal reaches processes at different times; if they acted on it at once, some would save while
others train on, and each would wait for the other. So a request travels with the logging outputs
that all processes add up after every update, and takes effect where the sum is known.
"""

from collections.abc import Callable

_is_requested = False
_on_agreement: Callable[[], None] | None = None


def request_stop(*_) -> None:
    """Ask for a stop after the next update; also a signal handler."""
    global _is_requested
    _is_requested = True


def num_requests() -> int:
    """What this process adds to the sum of requests."""
    return int(_is_requested)


def when_agreed(callback: Callable[[], None]) -> None:
    """Say what ends this process's run once a stop is agreed on."""
    global _on_agreement
    _on_agreement = callback


def agree(sum_of_requests: float) -> None:
    """Stop if any process was asked to; called with the same sum on all of them."""
    if sum_of_requests > 0 and _on_agreement is not None:
        _on_agreement()
