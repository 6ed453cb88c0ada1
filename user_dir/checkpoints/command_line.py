"""The checkpoints that a command of fairseq names, checked before fairseq opens them.

fairseq imports a plugin when it has read --user-dir from the command line, and offers it no place
between reading a checkpoint and using its options. The command line is what is known by then.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from user_dir.checkpoints.files import open_checkpoint
from user_dir.checkpoints.hydra_command import checkpoint_options
from user_dir.checkpoints.resuming import LAST, check_start
from user_dir.errors import UserError


def end_with_sentences(arguments: Sequence[str]) -> None:
    """Have a command of fairseq end on a user's mistake as the commands here do.

    Args:
        arguments: of the process, its own name included.
    """
    if not is_fairseqs(arguments):
        return
    name = Path(arguments[0]).stem
    command = name if name.startswith("fairseq") else f"fairseq-{name}"
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (UserError, OSError)):
            before(kind, error, trace)
            return
        print(f"{command}: error: {error}", file=sys.stderr)
        sys.exit(2)  # with which Python then ends

    sys.excepthook = hook


def check_command(arguments: Sequence[str]) -> None:
    """Check what a command of fairseq loads.

    Args:
        arguments: of the process, its own name included.

    Raises:
        UserError: it must not be loaded; the message names flag and file.
        SystemExit: the same, in fairseq-hydra-train.
    """
    if is_fairseqs(arguments):
        check_checkpoints(arguments[1:])
    elif (options := checkpoint_options(arguments)) is not None:
        try:
            check_start(options)
        except UserError as error:  # of which hydra would print the way through the code
            print(f"fairseq-hydra-train: error: {_as_overrides(error)}", file=sys.stderr)
            sys.exit(2)


def _as_overrides(error: UserError) -> str:
    """A sentence on an option, which has another name there."""
    flag, _, rest = str(error).partition(" ")
    return f"checkpoint.{flag.removeprefix('--').replace('-', '_')} {rest}"


def is_fairseqs(arguments: Sequence[str]) -> bool:
    """Whether it is a command that takes plugins; ours check what they load when they do."""
    name, *given = arguments or [""]
    # While `python -m` imports the package of the module that it runs, that is the name.
    is_ours = name == "-m" or Path(name).name.startswith("scomoe-")
    return not is_ours and any(one.partition("=")[0] == "--user-dir" for one in given)


def check_checkpoints(arguments: Sequence[str]) -> None:
    """Check every checkpoint that the arguments of a command of fairseq lead to.

    Raises:
        UserError: one is missing, or must not be loaded; the message names flag and file.
    """
    options = _parser().parse_known_args(arguments)[0]
    if options.path is not None or options.lm_path is not None:
        for flag, path in _models(options):
            open_checkpoint(path, flag=flag)
    else:
        check_start(vars(options))


def _parser() -> argparse.ArgumentParser:
    """The options of fairseq that name a checkpoint, with fairseq's defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--path")
    add("--lm-path")
    add("--save-dir", default="checkpoints")
    add("--restore-file", default=LAST)
    add("--continue-once")
    add("--finetune-from-model")
    add("--checkpoint-suffix", default="")
    add("--checkpoint-shard-count", type=int, default=1)
    return parser


def _models(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(flag, file) of every model to generate with."""
    from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename

    for flag, given in ("--path", options.path), ("--lm-path", options.lm_path):
        # fairseq-validate takes the name as a whole.
        whole = given is not None and os.path.isfile(given)
        for path in [given] if whole else (given or "").split(os.pathsep):
            for index in range(options.checkpoint_shard_count if path else 0):
                yield (
                    flag,
                    get_maybe_sharded_checkpoint_filename(
                        path, options.checkpoint_suffix, index, options.checkpoint_shard_count
                    ),
                )
