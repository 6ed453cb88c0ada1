"""Several local processes that translate batches: copies of the models, or shares of their experts.

The parent hands a batch to whoever is idle. It ends all workers when one fails, and a worker
ends when the parent is gone. This is no pool as `text.large.worker_pool` is: a worker is somebody
with a device, a loaded model and perhaps a share of its experts, which has to be told from the
others; it is started afresh, not forked, and its own sentence is what the user gets to read.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from user_dir.errors import UserError
from user_dir.text.leftovers import temporary_folder
from user_dir.translation.decoding import Batch, Decoding, Translation

if TYPE_CHECKING:
    from user_dir.translation.engine import Engine

_GRACE_SECONDS = 5.0


@dataclass
class _Worker:
    """A process and the parent's end of the pipe to it."""

    process: SpawnProcess
    connection: Connection
    batch: int | None = None  # the index of what it translates; None while it loads the models


@dataclass(frozen=True)
class _Peers:
    """How a worker finds those that it shares the experts with."""

    init_method: str
    rank: int
    count: int


def translate_batches(
    decoding: Decoding, batches: Iterable[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations), here or in several processes, in any order.

    A batch is drawn when somebody is free to translate it.
    """
    batches = iter(batches)
    first = list(islice(batches, processes))
    batches = chain(first, batches)
    if not first:
        return
    if decoding.spread_experts:
        yield from translate_with_spread_experts(decoding, batches, processes=processes)
    elif len(first) > 1:
        yield from translate_with_copies(decoding, batches, processes=len(first))
    else:
        engine = _load(decoding)
        for number, batch in enumerate(batches):
            yield number, engine.translate(batch)


def translate_with_copies(
    decoding: Decoding, batches: Iterable[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations) as they come; ends all workers at the end.

    Raises:
        UserError: a worker failed or was killed.
    """
    workers: list[_Worker] = []
    try:
        for index in range(processes):
            workers.append(_start(_serve_with_copy, (decoding, index, processes)))
        yield from _share_out(workers, batches)
    finally:
        _end(workers)


def translate_with_spread_experts(
    decoding: Decoding, batches: Iterable[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations) from processes that share the experts.

    All of them work on the same batch; the first one has its lines and sends the translations.

    Raises:
        UserError: a worker failed or was killed.
    """
    workers: list[_Worker] = []
    with temporary_folder() as folder:
        try:
            for index in range(processes):
                peers = _Peers(f"file://{folder}/rendezvous", index, processes)
                workers.append(_start(_serve_with_share, (decoding, index, peers)))
            _wait_for_first(workers)  # until it is ready
            for number, batch in enumerate(batches):
                _send(workers[0], batch, workers)
                for worker in workers[1:]:
                    _send(worker, Batch((), batch.direction), workers)
                yield number, _wait_for_first(workers)
        finally:
            _end(workers)


def _start(work: Callable[..., None], arguments: tuple) -> _Worker:
    # Not fork: a child must not inherit OpenMP's threads or a GPU's context.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()  # now only the worker holds it: its death is an end of file here
    return _Worker(process, ours)


def _share_out(
    workers: list[_Worker], batches: Iterable[Batch]
) -> Iterator[tuple[int, list[Translation]]]:
    unsent = enumerate(batches)
    by_connection = {worker.connection: worker for worker in workers}
    while by_connection:
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            translations = _receive(worker, workers)
            finished = worker.batch
            worker.batch, batch = next(unsent, (None, None))
            if batch is None:
                del by_connection[connection]
            else:
                _send(worker, batch, workers)
            if finished is not None:
                yield finished, translations


def _wait_for_first(workers: list[_Worker]) -> list[Translation]:
    """What the first worker sends; everyone is heard, so that nobody's death goes unnoticed."""
    by_connection = {worker.connection: worker for worker in workers}
    while True:
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            message = _receive(worker, workers)
            if worker is workers[0]:
                return message


def _receive(worker: _Worker, workers: list[_Worker]) -> list[Translation]:
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionError):
        raise _death(worker, workers) from None
    if isinstance(message, UserError):
        raise message
    return message


def _send(worker: _Worker, batch: Batch, workers: list[_Worker]) -> None:
    try:
        worker.connection.send(batch)
    except (BrokenPipeError, ConnectionError):
        raise _death(worker, workers) from None


def _death(worker: _Worker, workers: list[_Worker]) -> UserError:
    worker.process.join(_GRACE_SECONDS)
    status = worker.process.exitcode
    if status is not None and status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
        cure = "if memory ran out, fewer --processes or a smaller --max-tokens would do"
    else:
        how, cure = f"failed with status {status}", "its own message is above"
    return UserError(
        f"worker {workers.index(worker) + 1} of {len(workers)} {how}; the others were stopped and "
        f"nothing was written. {cure[0].upper()}{cure[1:]}"
    )


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _load(decoding: Decoding, *, device_index: int = 0, processes: int = 1) -> "Engine":
    """The models, on this process's share of the cores."""
    # Here, not at the top: --help and mistakes in the options need no torch.
    import torch

    from user_dir.translation.engine import Engine

    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return Engine(decoding, device_index=device_index)


def _serve_with_copy(
    connection: Connection, decoding: Decoding, index: int, processes: int
) -> None:
    """A worker's life: load, say so, then answer batches until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    try:
        engine = _load(decoding, device_index=index, processes=processes)
        connection.send([])
        while True:
            connection.send(engine.translate(connection.recv()))
    except UserError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return


def _serve_with_share(
    connection: Connection, decoding: Decoding, index: int, peers: _Peers
) -> None:
    """The life of a worker that holds a share of the experts."""
    import torch.distributed as dist

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        dist.init_process_group(
            "gloo" if decoding.on_cpu else "nccl",
            init_method=peers.init_method,
            rank=peers.rank,
            world_size=peers.count,
        )
        engine = _load(decoding, device_index=index, processes=peers.count)
        if peers.rank == 0:
            connection.send([])
        while True:
            batch = connection.recv()
            if peers.rank == 0:
                connection.send(engine.translate(batch))
            else:
                engine.take_part(batch.direction)
    except UserError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return
