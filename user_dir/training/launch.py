"""Where a training process stands among its peers, by the variables of its launcher."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from user_dir.errors import UserError


@dataclass(frozen=True)
class Place:
    """This process among its peers; processes of a node have consecutive indices."""

    launcher: str
    process_index: int
    num_processes: int
    local_index: int
    init_method: str
    address: str  # where the peers meet, in words
    tasks_per_node: int | None = None  # None: the launcher says it by LOCAL_WORLD_SIZE
    parent: int | None = None  # the process that started this one and must outlive it


def find_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place by torchrun's, our own or srun's variables; None: it stands alone.

    Raises:
        UserError: a launcher's variable is not what it should be.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _place_of_torchrun(environment)
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _place_of_slurm(environment)
    return None


def take_place(place: Place) -> None:
    """Set what the layout is taken from (LOCAL_WORLD_SIZE), and end when the parent has gone."""
    if place.tasks_per_node is not None:
        os.environ["LOCAL_WORLD_SIZE"] = str(place.tasks_per_node)
    if place.parent is not None:
        _follow_parent(place.parent)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit()):
        raise UserError(
            f"{name} must be a number, but is {'not set' if text is None else repr(text)}; "
            "torchrun, srun and scomoe-train --processes set it: start through one of them, or "
            f"unset {name}"
        )
    return int(text)


def _place_of_torchrun(env: Mapping[str, str]) -> Place | None:
    num_processes, index = _number(env, "WORLD_SIZE"), _number(env, "RANK")
    if num_processes == 1:
        return None
    if index >= num_processes:
        raise UserError(f"RANK ({index}) must be below WORLD_SIZE ({num_processes})")
    parent = _number(env, "SCOMOE_PARENT") if "SCOMOE_PARENT" in env else None
    address = f"{env.get('MASTER_ADDR', '?')}:{env.get('MASTER_PORT', '?')}"
    return Place(
        launcher="torchrun" if parent is None else "scomoe-train",
        process_index=index,
        num_processes=num_processes,
        local_index=_number(env, "LOCAL_RANK", 0),
        init_method=env.get("SCOMOE_INIT_METHOD", "env://"),
        address=address if parent is None else "this machine",
        parent=parent,
    )


def _place_of_slurm(env: Mapping[str, str]) -> Place:
    tasks_per_node = _even_tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node, local = _number(env, "SLURM_NODEID"), _number(env, "SLURM_LOCALID")
    host = _first_host(env.get("SLURM_STEP_NODELIST", ""))
    # A port of this step's own; jobs that share a node rarely meet, and gloo says so if they do.
    step = _number(env, "SLURM_JOB_ID", 0) * 31 + _number(env, "SLURM_STEP_ID", 0)
    address = f"{host}:{20000 + step % 20000}"
    return Place(
        launcher="srun",
        # Not SLURM_PROCID: under a cyclic distribution the tasks of a node are not consecutive.
        process_index=node * tasks_per_node + local,
        num_processes=_number(env, "SLURM_STEP_NUM_TASKS"),
        local_index=local,
        init_method=f"tcp://{address}",
        address=address,
        tasks_per_node=tasks_per_node,
    )


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
