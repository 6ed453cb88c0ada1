"""Local processes that translate batches: what the parent knows of one, and how one lives.

The parent ends all of them when one fails, and a worker ends when the parent is gone. This is no
pool as `text.large.worker_pool` is: a worker is somebody with a device, a loaded model and perhaps
a share of its experts, which has to be told from the others; it is started afresh, not forked, and
its own sentence is what the user gets to read.
"""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from user_dir.errors import UserError
from user_dir.translation.decoding import Batch, Decoding, Translation

if TYPE_CHECKING:
    from user_dir.translation.engine import Engine

_GRACE_SECONDS = 5.0


class Worker:
    """A process, and the parent's end of the pipe to it.

    Args:
        work: what it does, with its own end of the pipe and the arguments.
    """

    def __init__(self, work: Callable[..., None], arguments: tuple):
        # Not fork: a child must not inherit OpenMP's threads or a GPU's context.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()  # now only the worker holds it: its death is an end of file here
        self.is_ready = False  # until it has loaded the models
        self.batch: int | None = None  # the number of the batch that it has to do
        self.waiting: Batch | None = None  # that batch, until the worker is ready for it

    def send(self, batch: Batch, workers: Sequence["Worker"]) -> None:
        """Hand over a batch."""
        try:
            self.connection.send(batch)
        except (BrokenPipeError, ConnectionError):
            raise _death(self, workers) from None

    def send_waiting(self, workers: Sequence["Worker"]) -> None:
        """Hand over the batch that waits for it, if one does."""
        if self.waiting is not None:
            self.send(self.waiting, workers)
            self.waiting = None


@dataclass(frozen=True)
class Peers:
    """How a worker finds those that it shares the experts with."""

    init_method: str
    rank: int
    count: int


def wait_for_any(workers: Sequence[Worker]) -> list[Worker]:
    """Those that have sent something, or have died, once there are any."""
    by_connection = {worker.connection: worker for worker in workers}
    heard = wait(list(by_connection))
    return [worker for connection, worker in by_connection.items() if connection in heard]


def receive(worker: Worker, workers: Sequence[Worker]) -> list[Translation]:
    """What a worker sends: nothing when it is ready, then the translations of its batches.

    Raises:
        UserError: its own sentence, or one on its death among the others.
    """
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionError):
        raise _death(worker, workers) from None
    if isinstance(message, UserError):
        raise message
    return message


def end(workers: Sequence[Worker]) -> None:
    """End all of them, at work or not."""
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def load_engine(decoding: Decoding, *, device_index: int = 0, processes: int = 1) -> "Engine":
    """The models, on this process's share of the cores."""
    # Here, not at the top: --help and mistakes in the options need no torch.
    import torch

    from user_dir.translation.engine import Engine

    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return Engine(decoding, device_index=device_index)


def serve_with_copy(connection: Connection, decoding: Decoding, index: int, processes: int) -> None:
    """A worker's life: load, say so, then answer batches until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    try:
        engine = load_engine(decoding, device_index=index, processes=processes)
        connection.send([])
        while True:
            connection.send(engine.translate(connection.recv()))
    except UserError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return


def serve_with_share(connection: Connection, decoding: Decoding, index: int, peers: Peers) -> None:
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
        engine = load_engine(decoding, device_index=index, processes=peers.count)
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


def _death(worker: Worker, workers: Sequence[Worker]) -> UserError:
    worker.process.join(_GRACE_SECONDS)
    status = worker.process.exitcode
    if status is not None and status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
        cure = "If memory ran out, fewer --processes or a smaller --max-tokens would do"
    else:
        how, cure = f"failed with status {status}", "Its own message is above"
    return UserError(
        f"worker {list(workers).index(worker) + 1} of {len(workers)} {how}; the others were "
        f"stopped. {cure}"
    )
