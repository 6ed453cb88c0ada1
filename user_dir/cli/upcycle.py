"""Make a mixture of experts of a dense model: every expert starts as its feed-forward layer.

scomoe-upcycle dense.pt --out moe.pt --moe-freq 2 --moe-expert-count 8
scomoe-train DATA --finetune-from-model moe.pt --arch scomoe ... (printed at the end)

The dense model is one of ours without mixtures or one of fairseq's transformer. Its sizes stay;
what is given here is the mixture, as for training. The optimizer's state is not taken over.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.checkpoints.files import model_options, open_checkpoint
from user_dir.checkpoints.options.check import add_trust_option
from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.option_values import whole_number
from user_dir.text.whole_output import whole_file
from user_dir.transformer.flags import OPTION_GROUPS
from user_dir.transformer.sizes import SIZES

COMMAND = "scomoe-upcycle"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/upcycling.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dense", type=Path, metavar="DENSE", help="checkpoint of a dense model")
    add("--out", type=Path, required=True, metavar="CKPT", help="new file to write")
    add(
        "--arch",
        choices=tuple(SIZES),
        default="scomoe",
        help="architecture whose --moe-freq and --moe-expert-count are taken where they are not "
        "given; sizes are those of the dense model (default: %(default)s)",
    )
    add(
        "--seed",
        type=whole_number(),
        default=1,
        metavar="N",
        help="that the gates are drawn from (default: %(default)s)",
    )
    add_trust_option(parser)
    for title, add_options in OPTION_GROUPS:
        add_options(parser.add_argument_group(title))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _upcycle(args), debug=args.debug)


def _upcycle(args: argparse.Namespace) -> None:
    if args.out.is_file():
        raise UserError(f"--out ({args.out}) exists; name another file, or remove it")
    # Here, not at the top: --help and mistakes in the options need no torch.
    import torch
    from omegaconf import OmegaConf

    from user_dir import register  # noqa: F401 - what checkpoints name is known
    from user_dir.checkpoints.model_state import fairseq_state
    from user_dir.checkpoints.upcycling import upcycled_checkpoint
    from user_dir.transformer.upcycling import training_options, upcycle

    saved = open_checkpoint(args.dense, flag="DENSE", trusted=args.trust_checkpoint)
    state = fairseq_state(args.dense)
    dense = model_options(saved if saved.get("cfg") is not None else state)
    own = ("dense", "out", "trust_checkpoint", "debug")
    given = {name: value for name, value in vars(args).items() if name not in own}
    try:
        options, weights = upcycle(dense, state["model"], given)
    except UserError as error:
        raise UserError(f"DENSE ({args.dense}): {error}") from None
    cfg = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["model"] = options
    with whole_file(args.out, flag="--out") as file:
        torch.save(upcycled_checkpoint(state, cfg, weights), file)
    print(f"wrote {args.out}: every expert starts as the dense layer, the optimizer anew")
    words = shlex.join([*training_options(options), "--finetune-from-model", str(args.out)])
    print(f"to train it, give scomoe-train these options of the model beside your own: {words}")


if __name__ == "__main__":
    sys.exit(main())
