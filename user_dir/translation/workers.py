"""Several local processes that translate batches, each with its own copy of the models.

The parent hands a batch to whoever is idle. It ends all workers when one fails, and a worker
ends when the parent is gone.
"""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
import torch.distributed as dist

from user_dir.errors import UserError
from user_dir.translation.translator import Batch, Decoding, Translation, Translator

_GRACE_SECONDS = 5.0


@dataclass
class _Worker:
    """A process and the parent's end of the pipe to it."""

    process: SpawnProcess
    connection: Connection
    batch: int | None = None  # the index of what it translates; None while it loads the models


def translate_batches(
    decoding: Decoding, batches: Sequence[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations), here or in several processes, in any order."""
    if decoding.spread_experts and batches:
        yield from translate_in_step(decoding, batches, processes=processes)
        return
    processes = min(processes, len(batches))
    if processes > 1:
        yield from translate_in_processes(decoding, batches, processes=processes)
    elif batches:
        translator = Translator(decoding)
        for number, batch in enumerate(batches):
            yield number, translator.translate(batch)


def translate_in_processes(
    decoding: Decoding, batches: Sequence[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations) as they come; ends all workers at the end.

    Raises:
        UserError: a worker failed or was killed.
    """
    threads = max(1, torch.get_num_threads() // processes)
    workers: list[_Worker] = []
    try:
        for index in range(processes):
            workers.append(_start(_work, (decoding, index, threads)))
        yield from _share_out(workers, batches)
    finally:
        _end(workers)


def translate_in_step(
    decoding: Decoding, batches: Sequence[Batch], *, processes: int
) -> Iterator[tuple[int, list[Translation]]]:
    """Yield (index of a batch, its translations) from processes that share the experts.

    All of them work on the same batch; the first one has its lines and sends the translations.

    Raises:
        UserError: a worker failed or was killed.
    """
    threads = max(1, torch.get_num_threads() // processes)
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for index in range(processes):
                place = (f"{folder}/rendezvous", index, processes)
                arguments = (decoding, index, threads, place, tuple(batches))
                workers.append(_start(_work_in_step, arguments))
            by_connection = {worker.connection: worker for worker in workers}
            finished = 0
            while finished < len(batches):
                for connection in wait(list(by_connection)):
                    assert isinstance(connection, Connection)
                    worker = by_connection[connection]
                    # Everyone is heard, so that nobody's death is waited for in vain.
                    translations = _receive(worker, workers)
                    if worker is workers[0]:
                        yield finished, translations
                        finished += 1
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
    workers: list[_Worker], batches: Sequence[Batch]
) -> Iterator[tuple[int, list[Translation]]]:
    unsent = iter(range(len(batches)))
    by_connection = {worker.connection: worker for worker in workers}
    while by_connection:
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            translations = _receive(worker, workers)
            finished = worker.batch
            worker.batch = next(unsent, None)
            if worker.batch is None:
                del by_connection[connection]
            else:
                _send(worker, batches[worker.batch], workers)
            if finished is not None:
                yield finished, translations


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


def _work(connection: Connection, decoding: Decoding, index: int, threads: int) -> None:
    """A worker's life: load, say so, then answer batches until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    torch.set_num_threads(threads)
    try:
        translator = Translator(decoding, device_index=index)
        connection.send([])
        while True:
            connection.send(translator.translate(connection.recv()))
    except UserError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return


def _work_in_step(
    connection: Connection,
    decoding: Decoding,
    index: int,
    threads: int,
    place: tuple[str, int, int],
    batches: Sequence[Batch],
) -> None:
    """The life of a worker that holds a share of the experts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    rendezvous, rank, count = place
    try:
        dist.init_process_group(
            "gloo" if decoding.on_cpu else "nccl",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=count,
        )
        translator = Translator(decoding, device_index=index)
        for batch in batches:
            if rank > 0:
                translator.take_part(batch.direction)
            else:
                connection.send(translator.translate(batch))
        connection.recv()  # the parent closes it when it has everything
    except UserError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return
