"""`scomoe-plan --probe`: measures on the processes that it is launched on, then plans on one."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from user_dir.errors import UserError
from user_dir.text.whole_output import write_whole
from user_dir.training.launch import Place, find_place, take_place
from user_dir.training.local_processes import spawn_local, tell_end

if TYPE_CHECKING:
    import torch

    from user_dir.planning.machine import Machine

COMMAND = "scomoe-plan"
_TIMEOUT_MINUTES = 5.0


def launch(
    args: argparse.Namespace, arguments: Sequence[str], say: Callable[["Machine"], None]
) -> int:
    """Measure, in several processes if there are; then let one of them speak.

    Args:
        arguments: that the command was given, for processes that are started here.
    """
    try:
        if args.cluster is not None:
            raise UserError("--probe measures a machine and --cluster names one; leave one out")
        place = find_place(os.environ)
        if place is None and args.processes is not None and args.processes > 1:
            then = "Run the same command again"
            command = ["user_dir.cli.plan", *arguments]
            return spawn_local(command, args.processes, command=COMMAND, then=then)
        if place is not None and place.parent is None and args.processes is not None:
            raise UserError(
                f"--processes {args.processes} was given under {place.launcher}, which started "
                f"{place.num_processes} processes already; leave --processes out"
            )
        _probe(args, place, say)
    except (UserError, OSError) as error:
        return tell_end(UserError(str(error)), os.environ, command=COMMAND)
    return 0


def _probe(args: argparse.Namespace, place: Place | None, say: Callable[["Machine"], None]) -> None:
    import torch.distributed as dist

    from user_dir.fast_moe.layout.processes import running_layout
    from user_dir.planning.machine import write_machine
    from user_dir.planning.probe import measure_machine
    from user_dir.planning.setting import with_defaults
    from user_dir.training.connection import connect

    device = _device(place)
    if place is not None:
        take_place(place)
        backend = "gloo" if device.type == "cpu" else "nccl"
        connect(place, backend=backend, timeout_minutes=_TIMEOUT_MINUTES)
    try:
        whole = with_defaults(args)
        machine = measure_machine(
            running_layout(),
            device=device,
            precision=args.precision,
            dim=whole.encoder_embed_dim,
            hidden=whole.moe_expert_ffn_dim or whole.encoder_ffn_embed_dim,
        )
    finally:
        if place is not None and dist.is_initialized():
            dist.destroy_process_group()
    if place is not None and place.process_index > 0:
        return
    if args.save_cluster is not None:
        write_whole(args.save_cluster, write_machine(machine), flag="--save-cluster")
        print(f"wrote {args.save_cluster}")
    say(machine)


def _device(place: Place | None) -> "torch.device":
    """The GPU of this process, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", (place.local_index if place else 0) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
