"""`scomoe-train`: fairseq-train in one process, or in several that know of each other.

    scomoe-train [--processes N] DATA --arch scomoe_base … (arguments of fairseq-train)

Several processes come from --processes N (on this machine), from torchrun or from srun.
"""

import os
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from user_dir.errors import UserError
from user_dir.option_values import positive
from user_dir.training.launch import Place, find_place, spawn_local

_HELP = """usage: scomoe-train [--processes N] DATA [arguments of fairseq-train]

Trains with the arguments of fairseq-train; --user-dir is added.

  --processes N   train on N processes of this machine, each with its share of the experts
                  (default: one for each GPU, or one on CPUs)

Under torchrun or srun every task takes its place by itself:
  torchrun --nproc-per-node 8 -m user_dir.cli.train DATA --arch scomoe_base ...
  srun --ntasks-per-node 8 scomoe-train DATA --arch scomoe_large ...

`fairseq-train --help --user-dir user_dir --arch scomoe` lists all other arguments.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one training process, or start and watch several."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    try:
        num_processes, arguments = _take_processes(arguments)
        place = find_place()
        if place is not None and num_processes is not None:
            raise UserError(
                f"--processes {num_processes} was given under {place.launcher}, which started "
                f"{place.num_processes} processes already; leave --processes out"
            )
        if place is None and (num_processes or _default_processes(arguments)) > 1:
            return spawn_local(
                [sys.executable, "-m", "user_dir.cli.train", *arguments],
                num_processes or _default_processes(arguments),
            )
        _train([*arguments, *fairseq_arguments(arguments, place)])
    except UserError as error:
        print(f"scomoe-train: error: {error}", file=sys.stderr)
        return 2
    return 0


def fairseq_arguments(arguments: Sequence[str], place: Place | None) -> list[str]:
    """What to add to the user's arguments so that fairseq runs in its place."""
    added = []
    if not _is_given(arguments, "--user-dir"):
        added += ["--user-dir", str(Path(__file__).resolve().parents[1])]
    on_cpu = _on_cpu(arguments)
    if on_cpu and "--cpu" not in arguments:
        added += ["--cpu"]
    if place is None:
        return [*added, "--distributed-world-size", "1"]
    for flag in ("--distributed-world-size", "--distributed-rank", "--distributed-init-method"):
        if _is_given(arguments, flag):
            raise UserError(f"{flag} is set by scomoe-train under {place.launcher}; leave it out")
    added += ["--distributed-world-size", str(place.num_processes)]
    added += ["--distributed-rank", str(place.process_index)]
    added += ["--distributed-init-method", place.init_method]
    added += ["--distributed-no-spawn", "--device-id", str(place.local_index)]
    if on_cpu:
        if not _is_given(arguments, "--ddp-backend"):
            added += ["--ddp-backend", "legacy_ddp"]
        if not _is_given(arguments, "--distributed-backend"):
            added += ["--distributed-backend", "gloo"]
    return added


def _take_processes(arguments: list[str]) -> tuple[int | None, list[str]]:
    """(N of --processes, the other arguments)."""
    rest, value = [], None
    given = iter(arguments)
    for argument in given:
        if argument == "--processes":
            value = next(given, "")
        elif argument.startswith("--processes="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    if value is None:
        return None, rest
    try:
        return positive(value), rest
    except ArgumentTypeError as error:
        raise UserError(f"--processes {error}") from None


def _default_processes(arguments: Sequence[str]) -> int:
    import torch

    if _on_cpu(arguments):
        return 1
    return torch.cuda.device_count()


def _on_cpu(arguments: Sequence[str]) -> bool:
    import torch

    return "--cpu" in arguments or not torch.cuda.is_available()


def _is_given(arguments: Sequence[str], flag: str) -> bool:
    return any(a == flag or a.startswith(f"{flag}=") for a in arguments)


def _train(arguments: list[str]) -> None:
    import logging

    # Importing fairseq's tasks has set up logging by accident; its entry point does it on purpose.
    logging.getLogger().handlers.clear()

    import torch
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed_utils
    from fairseq_cli.train import main as fairseq_main

    from user_dir.checkpoints.files import mend_checkpoints

    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=arguments)
    if args.bf16:
        args.tpu = False  # fairseq takes --bf16 for a TPU
    mend_checkpoints(args.save_dir)
    cfg = convert_namespace_to_omegaconf(args)
    if args.criterion == "moe_cross_entropy":  # through which the processes agree
        _stop_on_signals(cfg)
    distributed_utils.call_main(cfg, fairseq_main)
    if torch.distributed.is_initialized():
        # Threads of a group that is still there when Python ends can abort the process.
        torch.distributed.destroy_process_group()


def _stop_on_signals(cfg) -> None:
    """On SIGUSR1 save and end after the next update; under Slurm on SIGTERM too.

    Slurm sends SIGTERM when a job is preempted or its time is over, and SIGKILL soon after.
    """
    import logging

    from user_dir.training.stopping import request_stop, when_agreed

    soon = 1e-9

    def stop() -> None:
        if cfg.optimization.stop_time_hours != soon:
            logging.getLogger("user_dir").info("asked to stop: saving and ending after this update")
        # fairseq reads both after every update; there may be no time to validate.
        cfg.dataset.disable_validation = True
        cfg.optimization.stop_time_hours = soon

    when_agreed(stop)
    signal.signal(signal.SIGUSR1, request_stop)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, request_stop)


if __name__ == "__main__":
    sys.exit(main())
