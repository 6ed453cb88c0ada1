"""Who translates the batches: this process, several with a copy each, or several with a share each.

All three start when they are first needed and stay, so that models are loaded once. `translate`
yields (index of a batch, its translations) in any order; a batch is drawn when somebody is free to
translate it. When it is left before its end, or fails, whoever was at work is ended.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from user_dir.text.leftovers import temporary_folder
from user_dir.translation.decoding import Batch, Decoding, Translation
from user_dir.translation.workers import (
    Peers,
    Worker,
    end,
    load_engine,
    receive,
    serve_with_copy,
    serve_with_share,
    wait_for_any,
)

if TYPE_CHECKING:
    from user_dir.translation.engine import Engine

Numbered = tuple[int, list[Translation]]


class Team(Protocol):
    """What the three have in common."""

    def start(self) -> None:
        """Load the models now. Raises `UserError` if they cannot be."""

    def translate(self, batches: Iterable[Batch]) -> Iterator[Numbered]:
        """Yield (index of a batch, its translations) for all of them."""

    def close(self) -> None:
        """End whoever was started; a later `translate` starts anew."""


def make_team(decoding: Decoding, *, processes: int) -> Team:
    """Who translates with so many processes."""
    if decoding.spread_experts:
        return Shares(decoding, processes)
    return Copies(decoding, processes) if processes > 1 else Alone(decoding)


class Alone:
    """This process."""

    def __init__(self, decoding: Decoding):
        self._decoding = decoding
        self._engine: Engine | None = None

    def start(self) -> None:
        """Load the models."""
        self._load()

    def translate(self, batches: Iterable[Batch]) -> Iterator[Numbered]:
        """One batch after the other."""
        for number, batch in enumerate(batches):
            yield number, self._load().translate(batch)

    def close(self) -> None:
        """Forget the models."""
        self._engine = None

    def _load(self) -> "Engine":
        if self._engine is None:
            self._engine = load_engine(self._decoding)
        return self._engine


class Copies:
    """Processes that have the whole model each; no more than there are batches for."""

    def __init__(self, decoding: Decoding, processes: int):
        self._decoding, self._processes = decoding, processes
        self._workers: list[Worker] = []

    def start(self) -> None:
        """Start one process, which tells whether the models can be loaded."""
        worker = self._add_worker()
        try:
            receive(worker, self._workers)
        except BaseException:
            self.close()
            raise
        worker.is_ready = True

    def translate(self, batches: Iterable[Batch]) -> Iterator[Numbered]:
        """Hand a batch to whoever is idle."""
        unsent = enumerate(batches)
        arrived: list[Numbered] = []
        try:
            while True:
                self._hand_out(unsent)  # before anything is yielded, so that nobody is idle
                yield from arrived
                busy = [worker for worker in self._workers if worker.batch is not None]
                if not busy:
                    return
                arrived = []
                for worker in wait_for_any(busy):
                    translations = receive(worker, self._workers)
                    if worker.is_ready:
                        assert worker.batch is not None
                        arrived.append((worker.batch, translations))
                        worker.batch = None
                    else:
                        worker.is_ready = True
                        worker.send_waiting(self._workers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        end(self._workers)
        self._workers = []

    def _hand_out(self, unsent: Iterator[tuple[int, Batch]]) -> None:
        while True:
            idle = next((worker for worker in self._workers if worker.batch is None), None)
            if idle is None and len(self._workers) == self._processes:
                return
            number, batch = next(unsent, (None, None))
            if number is None or batch is None:
                return
            worker = idle or self._add_worker()
            worker.batch, worker.waiting = number, batch
            if worker.is_ready:
                worker.send_waiting(self._workers)

    def _add_worker(self) -> Worker:
        index = len(self._workers)
        worker = Worker(serve_with_copy, (self._decoding, index, self._processes))
        self._workers.append(worker)
        return worker


class Shares:
    """Processes that share the experts and all work on the same batch.

    The first one has its lines and sends the translations.
    """

    def __init__(self, decoding: Decoding, processes: int):
        self._decoding, self._processes = decoding, processes
        self._workers: list[Worker] = []
        self._folder = ExitStack()

    def start(self) -> None:
        """Start all processes and let them meet."""
        if self._workers:
            return
        try:
            folder = self._folder.enter_context(temporary_folder())
            for index in range(self._processes):
                peers = Peers(f"file://{folder}/rendezvous", index, self._processes)
                self._workers.append(Worker(serve_with_share, (self._decoding, index, peers)))
            self._wait_for_first()  # until it is ready
        except BaseException:
            self.close()
            raise

    def translate(self, batches: Iterable[Batch]) -> Iterator[Numbered]:
        """One batch after the other."""
        try:
            for number, batch in enumerate(batches):
                self.start()
                self._workers[0].send(batch, self._workers)
                for worker in self._workers[1:]:
                    worker.send(Batch((), batch.direction), self._workers)
                yield number, self._wait_for_first()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        end(self._workers)
        self._workers = []
        self._folder.close()

    def _wait_for_first(self) -> list[Translation]:
        """What the first sends; everyone is heard, so that nobody's death goes unnoticed."""
        while True:
            for worker in wait_for_any(self._workers):
                message = receive(worker, self._workers)
                if worker is self._workers[0]:
                    return message
