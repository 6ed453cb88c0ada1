"""The checkpoints that a command of fairseq names, checked before fairseq opens them.

fairseq imports a plugin when it has read --user-dir from the command line, and offers it no place
between reading a checkpoint and using its options. The command line is what is known by then.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from user_dir.checkpoints.files import open_checkpoint
from user_dir.checkpoints.resuming import LAST, check_start
from user_dir.errors import UserError


def check_command(arguments: Sequence[str]) -> None:
    """Check what a command of fairseq loads; end the process as argparse does if it must not.

    Args:
        arguments: of the process, its own name included.
    """
    name, *given = arguments or [""]
    if _is_ours(name) or not any(one.partition("=")[0] == "--user-dir" for one in given):
        return
    try:
        check_checkpoints(given)
    except UserError as error:
        command = Path(name).stem
        command = command if command.startswith("fairseq") else f"fairseq-{command}"
        print(f"{command}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _is_ours(name: str) -> bool:
    """Whether it is a command of ours, which checks what it loads when it is about to."""
    # While `python -m` imports the package of the module that it runs, that is the name.
    return name == "-m" or Path(name).name.startswith("scomoe-")


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
