"""How the processes of a run find each other, and how long they wait for each other."""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from user_dir.training.failures import LostPeers
from user_dir.training.launch import Place

_START_MINUTES = 10.0
_POLL_SECONDS = 0.05


def connect(
    place: Place, *, backend: str, timeout_minutes: float, start_minutes: float = _START_MINUTES
) -> None:
    """Make the default process group.

    Args:
        timeout_minutes: how long an exchange may wait for other processes.
        start_minutes: how long this may.

    Raises:
        LostPeers: not all processes came in time; names those that did not.
    """
    start = timedelta(minutes=start_minutes)
    index, count = place.process_index, place.num_processes
    try:
        store, _, _ = next(
            rendezvous(place.init_method, rank=index, world_size=count, timeout=start)
        )
    except (dist.DistError, RuntimeError, OSError, ValueError) as error:
        raise LostPeers(_not_met(place, start, error)) from error
    store.set_timeout(start)
    session = _agree_on_session(store, index=index, count=count, timeout=start)
    timeout = timedelta(minutes=timeout_minutes)
    store = PrefixStore(session, store)
    dist.init_process_group(backend, store=store, rank=index, world_size=count, timeout=timeout)


def _agree_on_session(store: Store, *, index: int, count: int, timeout: timedelta) -> str:
    """A name that only the processes of this start know.

    torchrun keeps its store when it starts processes again, so that the addresses of those that
    died are still in it, and the new ones would call them. So every process says hello with a
    name of its own; process 0 answers each with the session's name until all have confirmed it.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    me = uuid.uuid4().hex
    if index > 0:
        store.set(f"scomoe/hello/{index}", me)
        try:
            session = store.get(f"scomoe/welcome/{me}").decode()
        except RuntimeError as error:  # also torch's own time-outs
            raise LostPeers(_missing(index, count, [0], timeout)) from error
        store.set(f"scomoe/confirmed/{session}/{index}", "")
        return session
    welcomed: dict[int, str] = {}
    waiting = set(range(1, count))
    while waiting:
        if time.monotonic() > deadline:
            raise LostPeers(_missing(index, count, sorted(waiting), timeout))
        for peer in sorted(waiting):
            if store.check([f"scomoe/confirmed/{me}/{peer}"]):
                waiting.remove(peer)
            elif store.check([f"scomoe/hello/{peer}"]):
                name = store.get(f"scomoe/hello/{peer}").decode()
                if welcomed.get(peer) != name:
                    store.set(f"scomoe/welcome/{name}", me)
                    welcomed[peer] = name
        time.sleep(_POLL_SECONDS)
    return me


def _missing(index: int, count: int, missing: list[int], timeout: timedelta) -> str:
    names = ", ".join(map(str, missing))
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"process {index} of {count} waited {_minutes(timeout)} for the others, and {names} {verb} "
        "missing; look at what they say, and start them all again"
    )


def _not_met(place: Place, timeout: timedelta, error: BaseException) -> str:
    where = place.address
    return (
        f"process {place.process_index} of {place.num_processes} found no peers at {where} within "
        f"{_minutes(timeout)}: "
        f"{str(error).strip().splitlines()[0]}; see that process 0 runs there and that this "
        "machine knows the name and reaches the port"
    )


def _minutes(timeout: timedelta) -> str:
    return f"{timeout.total_seconds() / 60:g} minutes"
