"""Where a training process stands among its peers, and how to start peers on this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from user_dir.errors import UserError
from user_dir.text.leftovers import temporary_folder

_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """This process among its peers; processes of a node have consecutive indices."""

    launcher: str
    process_index: int
    num_processes: int
    local_index: int
    init_method: str


def find_place(environment: Mapping[str, str] | None = None) -> Place | None:
    """This process's place by torchrun's, our own or srun's variables; None: it stands alone.

    Also sets LOCAL_WORLD_SIZE, from which the default layout is taken, under srun.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        return _place_of_torchrun(env)
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        place, tasks_per_node = _place_of_slurm(env)
        if environment is None:
            os.environ["LOCAL_WORLD_SIZE"] = str(tasks_per_node)
        return place
    return None


def _place_of_torchrun(env: Mapping[str, str]) -> Place | None:
    if env.get("SCOMOE_PARENT"):
        _follow_parent(int(env["SCOMOE_PARENT"]))
    if int(env["WORLD_SIZE"]) == 1:
        return None
    return Place(
        launcher="scomoe-train" if env.get("SCOMOE_PARENT") else "torchrun",
        process_index=int(env["RANK"]),
        num_processes=int(env["WORLD_SIZE"]),
        local_index=int(env.get("LOCAL_RANK", 0)),
        init_method=env.get("SCOMOE_INIT_METHOD", "env://"),
    )


def _place_of_slurm(env: Mapping[str, str]) -> tuple[Place, int]:
    tasks_per_node = _even_tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])
    node, local = int(env["SLURM_NODEID"]), int(env["SLURM_LOCALID"])
    # Not SLURM_PROCID: under a cyclic distribution the tasks of a node are not consecutive.
    index = node * tasks_per_node + local
    host = _first_host(env["SLURM_STEP_NODELIST"])
    # A port of this step's own; jobs that share a node rarely meet, and gloo says so if they do.
    step = int(env.get("SLURM_JOB_ID", 0)) * 31 + int(env.get("SLURM_STEP_ID", 0))
    place = Place(
        launcher="srun",
        process_index=index,
        num_processes=int(env["SLURM_STEP_NUM_TASKS"]),
        local_index=local,
        init_method=f"tcp://{host}:{20000 + step % 20000}",
    )
    return place, tasks_per_node


def _even_tasks_per_node(text: str) -> int:
    """2 for "2" and "2(x4)"; Slurm lists other counts one after the other."""
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", text)
    if match is None:
        raise UserError(
            f"srun spread the tasks unevenly over the nodes (SLURM_STEP_TASKS_PER_NODE={text}); "
            "use --ntasks-per-node"
        )
    return int(match.group(1))


def _first_host(nodelist: str) -> str:
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol cannot expand the node list {nodelist}: {error}") from error
    return names.stdout.split()[0]


def _follow_parent(parent: int) -> None:
    """End this process when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def spawn_local(command: Sequence[str], num_processes: int) -> int:
    """Run a command in several processes of this machine that know of each other.

    When one fails the others are stopped; the exit status is that of the first to fail.
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    with temporary_folder() as folder:
        shared = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "SCOMOE_PARENT": str(os.getpid()),
            "SCOMOE_INIT_METHOD": f"file://{folder}/rendezvous",
        }
        children = [
            subprocess.Popen(command, env={**shared, "RANK": str(i), "LOCAL_RANK": str(i)})
            for i in range(num_processes)
        ]
        with _passing_on_signals(children):
            failed = _wait_for_first_failure(children)
            _stop(children)
    if failed is None:
        return 0
    status = children[failed].returncode
    print(
        f"scomoe-train: process {failed} of {num_processes} {_describe(status)}; the others were "
        "stopped. Checkpoints are as they were last saved: run the same command to resume",
        file=sys.stderr,
    )
    return status if status > 0 else 128 - status


def _wait_for_first_failure(children: list[subprocess.Popen]) -> int | None:
    while True:
        statuses = [child.poll() for child in children]
        # A peer that lost its connection fails too; a killed process is the one to name.
        killed = [i for i, status in enumerate(statuses) if status is not None and status < 0]
        failed = [i for i, status in enumerate(statuses) if status]
        if killed or failed:
            return (killed or failed)[0]
        if all(status == 0 for status in statuses):
            return None
        time.sleep(0.1)


def _describe(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"failed with status {status}"


def _stop(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in children:
        try:
            child.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class _passing_on_signals:
    """Hands SIGTERM, SIGINT and SIGUSR1 of this process to its children meanwhile."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, children: list[subprocess.Popen]):
        self.children = children

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, self._pass_on) for s in self._SIGNALS}

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number, _frame) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)
