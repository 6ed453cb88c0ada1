"""Print the --model-overrides with which the eval scripts evaluate a checkpoint.

The tokens of SCoMoE-Seq may go everywhere unless ratios are given: which ones stay near depends on
the batch. The experts of SCoMoE-Feat have the shapes of its ratios, which stay as they are.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from user_dir.checkpoints.files import model_options, open_checkpoint
from user_dir.cli.command import CommandParser, run_command
from user_dir.option_values import finite_number

COMMAND = "evaluation_overrides"


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--path", required=True, help="checkpoint")
    add("--capacity", type=finite_number(), help="slots of an expert, as a share of the tokens")
    for index in 1, 2:
        add(
            f"--r{index}", type=finite_number(least=0, most=1), help=f"--ratio{index} at evaluation"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: print(_overrides(args)), debug=args.debug)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    # Here, not at the top: --help and mistakes in the options need no torch.
    from user_dir import register  # noqa: F401 - what checkpoints name is known

    overrides = _ratios(_scomoe_type(args.path), {"ratio1": args.r1, "ratio2": args.r2})
    if args.capacity is not None:
        overrides["moe_eval_capacity_token_fraction"] = args.capacity
    return overrides


def _ratios(scomoe_type: str, given: dict[str, float | None]) -> dict[str, Any]:
    if scomoe_type not in ("seq", "feat"):
        return {}
    known = {name: value for name, value in given.items() if value is not None}
    if scomoe_type == "seq" and known:
        return {"ratio1": 0.0, "ratio2": 0.0, **known, "scomoe_inference_partition": "quota"}
    return known


def _scomoe_type(path: str) -> str:
    state = open_checkpoint(path, flag="--path", only_options=True)
    return model_options(state).get("scomoe_type") or "none"


if __name__ == "__main__":
    sys.exit(main())
