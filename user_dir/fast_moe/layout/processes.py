"""The processes that run, and the logical ranks that they make by themselves."""

import os

import torch
import torch.distributed as dist

from user_dir.errors import UserError
from user_dir.fast_moe.layout.ranks import Layout


def running_processes() -> tuple[int, int]:
    """(index, count) of the processes of `torch.distributed`; (0, 1) without it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def refuse_unconnected_processes() -> None:
    """Refuse training in one of several processes that do not know of each other.

    Under torchrun or srun plain `fairseq-train` runs as that many independent jobs, which write
    over each other's checkpoints. Reads the launchers' variables.

    Raises:
        UserError: a launcher started several processes, but `torch.distributed` has one.
    """
    _, num_processes = running_processes()
    started = _number("WORLD_SIZE", default=_number("SLURM_STEP_NUM_TASKS", default=1))
    if started > 1 and num_processes == 1:
        raise UserError(
            f"{started} processes were started, but each would train a model of its own; start "
            "scomoe-train (python -m user_dir.cli.train) instead of fairseq-train"
        )


def running_layout() -> Layout:
    """One logical rank for each process that runs, nodes as the launcher's environment tells them.

    Reads LOCAL_WORLD_SIZE, which torchrun and `scomoe-train` set; without it, one node.
    """
    _, num_processes = running_processes()
    local = _number("LOCAL_WORLD_SIZE", default=num_processes)
    if num_processes == 1:
        local = 1
    if num_processes % local:
        raise UserError(
            f"{num_processes} processes do not divide into nodes of {local} "
            "(LOCAL_WORLD_SIZE); give --moe-nodes and --moe-ranks-per-node"
        )
    return Layout(num_nodes=num_processes // local, ranks_per_node=local)


def _number(variable: str, *, default: int) -> int:
    """The positive number that a launcher has put into an environment variable."""
    text = os.environ.get(variable)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(
            f"{variable} must be a positive number, but is {text!r}; launchers set it: start "
            f"through torchrun, srun or scomoe-train --processes, or unset {variable}"
        )
    return int(text)


def agree_on_maximum(values: list[int], *, device: torch.device) -> list[int]:
    """The largest of each value over all processes; one all-reduce, then a host synchronisation."""
    _, num_processes = running_processes()
    if num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.int64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()
