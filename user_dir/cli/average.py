"""Average the weights of several checkpoints of one run (docs/translating.md)."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.checkpoints.files import open_checkpoint
from user_dir.checkpoints.options.check import add_trust_option
from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.option_values import positive
from user_dir.text.whole_output import whole_file

COMMAND = "scomoe-average"

# fairseq's names: checkpoint3.pt after epoch 3, checkpoint_3_1500.pt after update 1500 in it.
_NAMES = {
    "epochs": re.compile(r"checkpoint(\d+)\.pt"),
    "updates": re.compile(r"checkpoint_\d+_(\d+)\.pt"),
}


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--inputs", nargs="+", type=Path, metavar="CKPT", help="checkpoints")
    origin.add_argument("--save-dir", type=Path, help="the folder of the run, for --last")
    parser.add_argument("--last", type=positive, metavar="N", help="the last N of --save-dir")
    parser.add_argument(
        "--by",
        choices=tuple(_NAMES),
        default="epochs",
        help="whether --last means checkpoints of epochs (checkpoint3.pt) or of updates "
        "(checkpoint_3_1500.pt) (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="CKPT", help="file to write")
    add_trust_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _average(args), debug=args.debug)


def _average(args: argparse.Namespace) -> None:
    # Here, not at the top: --help and mistakes in the options need no torch.
    import torch

    from user_dir import register  # noqa: F401 - what checkpoints name is known
    from user_dir.checkpoints.averaging import average_models, averaged_checkpoint

    paths = args.inputs or _last_checkpoints(args)
    if args.inputs and args.last:
        raise UserError("--last counts the checkpoints of --save-dir; leave it out with --inputs")
    states = [
        open_checkpoint(path, flag=_flag(args), trusted=args.trust_checkpoint) for path in paths
    ]
    models = {str(path): state["model"] for path, state in zip(paths, states, strict=True)}
    averaged = average_models(models)
    with whole_file(args.output, flag="--output") as file:
        torch.save(averaged_checkpoint(states[-1], averaged), file)
    print(f"averaged {', '.join(map(str, paths))} into {args.output}")


def _flag(args: argparse.Namespace) -> str:
    return "--inputs" if args.inputs else "--save-dir"


def _last_checkpoints(args: argparse.Namespace) -> list[Path]:
    """The last checkpoints of the folder, oldest first."""
    if args.last is None:
        raise UserError("--save-dir needs --last N: how many of its checkpoints to average")
    if not args.save_dir.is_dir():
        raise UserError(f"--save-dir ({args.save_dir}): no such folder")
    found = {}
    for path in args.save_dir.iterdir():
        if match := _NAMES[args.by].fullmatch(path.name):
            found[int(match[1])] = path
    if len(found) < args.last:
        raise UserError(
            f"--last {args.last}: {args.save_dir} holds {len(found)} checkpoints of {args.by}; ask "
            "for fewer, or choose the other kind with --by"
        )
    return [found[number] for number in sorted(found)[-args.last :]]


if __name__ == "__main__":
    sys.exit(main())
