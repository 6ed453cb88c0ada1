"""`scomoe-train`: fairseq-train in one process, or in several that know of each other.

    scomoe-train [--processes N] DATA --arch scomoe_base … (arguments of fairseq-train)

Several processes come from --processes N (on this machine), from torchrun or from srun.
"""

import logging
import os
import signal
import sys
import traceback
import warnings
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from user_dir.errors import UserError
from user_dir.option_values import finite_number, positive
from user_dir.training.failures import OfOneProcess
from user_dir.training.launch import Place, find_place, take_place
from user_dir.training.local_processes import INTERRUPTION, spawn_local, tell_end
from user_dir.training.option_help import (
    DEFAULT_TIMEOUT_MINUTES,
    option_parser,
    print_all_options,
)
from user_dir.training.stopping import INTERRUPTED, ended_by_interrupts, is_interrupted
from user_dir.training.usage import check_usage, option_strings, sentence_of_parser

if TYPE_CHECKING:
    from user_dir.training.console.run_log import RunLog

T = TypeVar("T")

_TIMEOUT = "--distributed-timeout-minutes"
_OWN_SWITCHES = ("--trust-checkpoint", "--debug")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one training process, or start and watch several."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or "-h" in arguments or "--help" in arguments:
        option_parser().print_help()
        return 0
    if "--help-all" in arguments:
        from user_dir import register  # noqa: F401

        print_all_options()
        return 0
    with ended_by_interrupts():
        return _run_or_start(arguments)


def _run_or_start(arguments: Sequence[str]) -> int:
    try:
        num_processes, rest = _take_option(arguments, "--processes", positive)
        given, rest = _take_option(rest, _TIMEOUT, finite_number(least=0.01, most=1e6))
        timeout_minutes = given or DEFAULT_TIMEOUT_MINUTES
        place = find_place(os.environ)
        if place is not None and num_processes is not None:
            raise UserError(
                f"--processes {num_processes} was given under {place.launcher}, which started "
                f"{place.num_processes} processes already; leave --processes out"
            )
        if place is None or place.parent is None:  # which has looked at them
            check_usage(arguments)
        if place is None:
            num_processes = num_processes or _default_processes(rest)
            if num_processes > 1:
                command = ["user_dir.cli.train", *rest, _TIMEOUT, str(timeout_minutes)]
                return spawn_local(command, num_processes)
        else:
            take_place(place)
        _train([*rest, *fairseq_arguments(rest, place)], place, timeout_minutes)
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return tell_end(error, os.environ)
    # One process of several must not seem to have failed while others are still saving.
    return INTERRUPTED if is_interrupted() and place is None else 0


def fairseq_arguments(arguments: Sequence[str], place: Place | None) -> list[str]:
    """What to add to the user's arguments so that fairseq runs in its place."""
    added = []
    if not _is_given(arguments, "--user-dir"):
        added += ["--user-dir", str(Path(__file__).resolve().parents[1])]
    on_cpu = _on_cpu(arguments)
    if on_cpu and "--cpu" not in arguments:
        added += ["--cpu"]
    if place is None:
        if _is_given(arguments, "--distributed-world-size"):
            raise UserError(
                "--distributed-world-size is set by scomoe-train; leave it out, and say with "
                "--processes how many processes there are to be"
            )
        return [*added, "--distributed-world-size", "1"]
    for flag in ("--distributed-world-size", "--distributed-rank", "--distributed-init-method"):
        if _is_given(arguments, flag):
            raise UserError(f"{flag} is set by scomoe-train under {place.launcher}; leave it out")
    added += ["--distributed-world-size", str(place.num_processes)]
    added += ["--distributed-rank", str(place.process_index)]
    added += ["--distributed-init-method", place.init_method]
    added += ["--distributed-no-spawn", "--device-id", str(_device(place, on_cpu=on_cpu))]
    if on_cpu:
        if not _is_given(arguments, "--ddp-backend"):
            added += ["--ddp-backend", "legacy_ddp"]
        if not _is_given(arguments, "--distributed-backend"):
            added += ["--distributed-backend", "gloo"]
    return added


def _device(place: Place, *, on_cpu: bool) -> int:
    """The GPU of this process among those that it sees: under srun often only its own."""
    import torch

    if on_cpu:
        return place.local_index
    num_visible = torch.cuda.device_count()
    if place.local_index >= num_visible and place.launcher != "srun":
        raise OfOneProcess(
            f"process {place.local_index} of this machine has no GPU of its own, for {num_visible} "
            f"of them can be seen; start {num_visible} processes here, or add --cpu"
        )
    return place.local_index % num_visible


def _take_option(
    arguments: Sequence[str], flag: str, read: Callable[[str], T]
) -> tuple[T | None, list[str]]:
    """(The value of an option of ours, the other arguments); None: it is not given."""
    rest, value = [], None
    given = iter(arguments)
    for argument in given:
        if argument == flag:
            value = next(given, "")
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    if value is None:
        return None, rest
    try:
        return read(value), rest
    except ArgumentTypeError as error:
        raise UserError(f"{flag} {error}") from None


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


def _train(arguments: list[str], place: Place | None, timeout_minutes: float) -> None:
    import fairseq_cli.train  # noqa: F401 - sets up logging
    import torch

    # fairseq finds this package imported already, and takes that for registered.
    from user_dir import register  # noqa: F401
    from user_dir.training.failures import setting_up
    from user_dir.training.stopping import request_stop_on_signals

    trusted = "--trust-checkpoint" in arguments
    arguments = [one for one in arguments if one not in _OWN_SWITCHES]
    process_index = 0 if place is None else place.process_index
    try:
        with _explained(place, timeout_minutes):
            with setting_up():
                args, cfg, has_console = _configure(arguments)
            if args.criterion == "moe_cross_entropy":  # through which the processes agree
                is_child = place is not None and place.parent is not None
                request_stop_on_signals(
                    interruption=INTERRUPTION if is_child else signal.SIGINT,
                    speaks=process_index == 0,
                )
        log_of_run = _run_log(cfg, process_index) if has_console else nullcontext()
        with log_of_run as log, _explained(place, timeout_minutes):
            _run(cfg, place, timeout_minutes, trusted=trusted, log=log)
    finally:
        if torch.distributed.is_initialized():
            # Threads of a group that is still there when Python ends can abort the process.
            torch.distributed.destroy_process_group()


@contextmanager
def _explained(place: Place | None, timeout_minutes: float) -> Iterator[None]:
    """What ends a run becomes a sentence, if a user can mend it."""
    from user_dir.training.failures import explain

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explain(
            error,
            process_index=0 if place is None else place.process_index,
            num_processes=1 if place is None else place.num_processes,
            timeout_minutes=timeout_minutes,
        )
        if sentence is None:
            raise
        raise sentence from error


def _configure(arguments: list[str]) -> tuple[Namespace, Any, bool]:
    """fairseq's options and configuration, and whether the run has a console."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    logging.disable(logging.INFO)  # fairseq says that this package is imported already
    try:
        args = _parse(options.get_training_parser(), arguments)
    finally:
        logging.disable(logging.NOTSET)
    has_console = args.log_format is None and args.log_file is None
    if has_console:
        args.log_format = "json"  # in the file, whence the console has its figures
    if args.bf16:
        args.tpu = False  # fairseq takes --bf16 for a TPU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's, of how fairseq calls it
        return args, convert_namespace_to_omegaconf(args), has_console


def _run_log(cfg, process_index: int) -> "RunLog":
    from user_dir.training.console.run_log import RunLog

    return RunLog(
        None if cfg.checkpoint.no_save else Path(cfg.checkpoint.save_dir),
        process_index=process_index,
        subsets=cfg.dataset.valid_subset.split(","),
        bars=not cfg.common.no_progress_bar,
    )


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """fairseq's, with argparse's words turned into a sentence."""
    from fairseq import options

    def error(message: str) -> NoReturn:
        raise UserError(sentence_of_parser(message, option_strings(parser)))

    parser.error = error  # type: ignore[method-assign]
    return options.parse_args_and_arch(parser, input_args=arguments)


def _run(
    cfg, place: Place | None, timeout_minutes: float, *, trusted: bool, log: "RunLog | None"
) -> None:
    """Take the folder, meet the others, train."""
    import contextlib

    from fairseq.distributed.utils import call_main

    from user_dir.checkpoints.mending import mend_checkpoints
    from user_dir.checkpoints.resuming import check_start
    from user_dir.training.connection import connect
    from user_dir.training.fairseq_group import make_fairseq_group
    from user_dir.training.run import train
    from user_dir.training.save_folder import held_save_folder

    with contextlib.ExitStack() as stack:
        if place is None or place.process_index == 0:
            if not cfg.checkpoint.no_save:
                stack.enter_context(held_save_folder(Path(cfg.checkpoint.save_dir)))
                if log is not None:
                    log.begin_file()
                mend_checkpoints(cfg.checkpoint.save_dir)
            check_start(cfg.checkpoint, trusted=trusted)
        if place is not None:  # after that: none loads a checkpoint that is being mended
            connect(
                place,
                backend=cfg.distributed_training.distributed_backend,
                timeout_minutes=timeout_minutes,
            )
            make_fairseq_group(timeout_minutes=timeout_minutes)
            warnings.filterwarnings("ignore", message="Distributed is already initialized")
        call_main(cfg, train, console=log.console if log else None)


if __name__ == "__main__":
    sys.exit(main())
