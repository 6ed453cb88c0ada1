"""Runs a function in real processes and returns what each of them returned."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(
    function: Callable[..., Any],
    *args,
    processes: int,
    timeout: float = 120,
    backend: str = "gloo",
) -> list:
    """Call ``function(*args)`` in processes of one group.

    Args:
        function: importable by name; returns something that torch.save takes.
        timeout: seconds after which everything is killed and the test fails.
        backend: of the group; with "nccl" each process has the GPU of its number.
    """
    with tempfile.TemporaryDirectory() as folder:
        shared = (processes, folder, backend, function, args)
        context = mp.start_processes(
            _run, shared, nprocs=processes, join=False, start_method=_start_method(backend)
        )
        if not _join(context, timeout):
            raise TimeoutError(f"{processes} processes did not finish within {timeout} s")
        return [torch.load(Path(folder) / f"result{i}") for i in range(processes)]


def _start_method(backend: str) -> str:
    """From a server that has imported everything once; a GPU's context needs fresh processes."""
    if backend == "nccl":
        return "spawn"
    multiprocessing.set_forkserver_preload(["user_dir.register", "tests.support.stacks"])
    return "forkserver"


def _join(context, timeout: float) -> bool:
    import time

    deadline = time.monotonic() + timeout
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            return False
    return True


def _run(
    index: int, processes: int, folder: str, backend: str, function: Callable, args: tuple
) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)
    if backend == "nccl":
        torch.cuda.set_device(index)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=index, world_size=processes
    )
    result = function(*args)
    dist.barrier()
    torch.save(result, Path(folder) / f"result{index}")
    dist.destroy_process_group()
