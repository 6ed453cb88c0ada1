"""Average the weights of several checkpoints of one run (docs/translating.md)."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from user_dir.checkpoints.files import open_checkpoint
from user_dir.checkpoints.options.check import add_trust_option
from user_dir.cli.command import run_command
from user_dir.errors import UserError
from user_dir.option_values import positive
from user_dir.text.whole_output import whole_file

COMMAND = "scomoe-average"

# fairseq's names: checkpoint3.pt after epoch 3, checkpoint_3_1500.pt after update 1500 in it.
_NAMES = {
    "epochs": re.compile(r"checkpoint(\d+)\.pt"),
    "updates": re.compile(r"checkpoint_\d+_(\d+)\.pt"),
}

# What a model that is loaded needs. Optimizer states must not be mixed, so they stay behind.
_KEPT = ("args", "cfg", "criterion", "optimizer_history", "task_state")


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
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
    return run_command(COMMAND, lambda: _average(args))


def _average(args: argparse.Namespace) -> None:
    paths = args.inputs or _last_checkpoints(args)
    if args.inputs and args.last:
        raise UserError("--last counts the checkpoints of --save-dir; leave it out with --inputs")
    states = [
        open_checkpoint(path, flag=_flag(args), trusted=args.trust_checkpoint) for path in paths
    ]
    models = {str(path): state["model"] for path, state in zip(paths, states, strict=True)}
    averaged = average_models(models)
    with whole_file(args.output, flag="--output") as file:
        torch.save(_checkpoint(states[-1], averaged), file)
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


def average_models(models: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating tensor over the models, by the files they are from.

    Sums are in float32 (float64 for float64) and the result has the tensors' own type. Other
    tensors must be equal. Tensors that share memory in every model share it in the result.

    Raises:
        UserError: the models differ in more than values; the message names file and key.
    """
    _check_same_tensors(models)
    averaged: dict[str, Tensor] = {}
    known: dict[tuple, Tensor] = {}
    for key in next(iter(models.values())):
        tensors = {path: model[key] for path, model in models.items()}
        place = tuple(_place(tensor) for tensor in tensors.values())
        if place not in known:
            known[place] = _mean(key, tensors)
        averaged[key] = known[place]
    return averaged


def _check_same_tensors(models: dict[str, dict[str, Tensor]]) -> None:
    (first_path, first), *others = models.items()
    for path, model in others:
        for key in sorted(first.keys() ^ model.keys()):
            there, missing = (first_path, path) if key in first else (path, first_path)
            raise UserError(
                f'{missing} has no "{key}", but {there} has; only checkpoints of one model can be '
                "averaged"
            )
        for key, tensor in first.items():
            theirs = model[key]
            if (theirs.shape, theirs.dtype) != (tensor.shape, tensor.dtype):
                raise UserError(
                    f'{path}: "{key}" is {_describe(theirs)}, but {_describe(tensor)} in '
                    f"{first_path}; only checkpoints of one model can be averaged"
                )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _place(tensor: Tensor) -> tuple:
    storage = tensor.untyped_storage().data_ptr()
    # Where the memory is, and, for tensors that have none, which tensor it is.
    identity = storage if tensor.numel() else id(tensor)
    return identity, tensor.storage_offset(), tensor.shape, tensor.stride()


def _mean(key: str, tensors: dict[str, Tensor]) -> Tensor:
    (first_path, first), *others = tensors.items()
    if not first.is_floating_point():
        for path, tensor in others:
            if not torch.equal(tensor, first):
                raise UserError(
                    f'{path}: "{key}" is {tensor.tolist()}, but {first.tolist()} in {first_path}; '
                    "only checkpoints of one model can be averaged"
                )
        return first.clone()
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
    for _, tensor in others:
        total += tensor
    return (total / len(tensors)).to(first.dtype)


def _checkpoint(newest: dict[str, Any], model: dict[str, Tensor]) -> dict[str, Any]:
    kept = {key: newest[key] for key in _KEPT if key in newest}
    iterator = newest.get("extra_state", {}).get("train_iterator")
    extra_state = {} if iterator is None else {"train_iterator": iterator}
    return {**kept, "model": model, "extra_state": extra_state, "last_optimizer_state": None}


if __name__ == "__main__":
    sys.exit(main())
