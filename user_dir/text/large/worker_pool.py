"""Work spread over processes, so that an error or a killed worker ends it with a sentence."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from user_dir.errors import UserError

_PR_SET_PDEATHSIG = 1  # Linux

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """Results in the order of the items, of which few at a time are in memory.

    With one worker everything happens in this process.
    """
    if workers == 1:
        yield from map(function, items)
        return
    with _pool(function, workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(_work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def map_as_done(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, as soon as there is one.

    An error comes last: what the other workers have begun is finished and handed out before.
    """
    if workers == 1:
        for item in items:
            yield item, function(item)
        return
    with _pool(function, min(workers, max(len(items), 1))) as pool:
        futures: dict[Future[Result], Item] = {pool.submit(_work, item): item for item in items}
        error: BaseException | None = None
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if future.exception() is None:
                yield futures[future], future.result()
            elif error is None:
                error = future.exception()
                for other in futures:
                    other.cancel()
        if error is not None:
            raise error


@contextmanager
def _pool(function: Callable[[Any], Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    # fork: a worker started afresh would import torch, which takes seconds. It also has the
    # function already, which need not travel, with all that it knows, along with every item.
    context = multiprocessing.get_context("fork")
    executor: Any = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_as_worker, initargs=(function,)
    )
    try:
        yield executor
    except BrokenProcessPool:
        executor.shutdown(cancel_futures=True)
        raise UserError(
            "a worker process was killed, perhaps for want of memory; try fewer --workers"
        ) from None
    except BaseException as error:
        if not isinstance(error, Exception):  # ended by the user or the system: wait for nobody
            for process in multiprocessing.active_children():
                process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


# Of a worker: what it does with every item.
_function: Callable[[Any], Any] | None = None


def _work(item: Any) -> Any:
    assert _function is not None
    return _function(item)


def _as_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    # The parent ends its workers; what it does on a signal is not theirs to repeat.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that was killed ends nobody, and an orphan would keep files and locks for ever.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
