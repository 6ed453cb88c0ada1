"""The options of `scomoe-plan`: those of training that matter to a plan, and the machine's."""

import argparse
from collections.abc import Callable
from pathlib import Path

from user_dir.option_values import finite_number, positive, whole_number
from user_dir.transformer.sizes import SIZES

DESCRIPTION = """Plan a run before it costs anything: bytes, time, memory of every way of exchange.

scomoe-plan --cluster 8xa100-hdr --moe-nodes 4 --arch scomoe_base --moe-expert-count 32
scomoe-plan --cluster my.toml --arch scomoe_large --scomoe-type seq --out plan.html
scomoe-plan --probe --processes 4 --arch scomoe_tiny          # measures this machine
torchrun --nproc-per-node 8 -m user_dir.cli.plan --probe --save-cluster my.toml --arch scomoe_base
"""
_RATE = finite_number(least=1e-9)
_SHARE = finite_number(least=0, most=1)
_COUNT = whole_number()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them; docs/planning.md describes them."""
    _add_machine(parser.add_argument_group("machine").add_argument)
    _add_layout(parser.add_argument_group("layout and training").add_argument)
    _add_model(parser.add_argument_group("model, as for training").add_argument)
    _add_mixture(parser.add_argument_group("mixture, as for training").add_argument)
    _add_output(parser.add_argument_group("what to say").add_argument)


def _add_machine(add: Callable) -> None:
    add(
        "--cluster",
        metavar="NAME|FILE",
        help="a machine that is shipped (`list` names them), or a file that describes one",
    )
    add(
        "--probe",
        action="store_true",
        help="measure bandwidths and rates on the processes that this is launched on",
    )
    add(
        "--processes",
        type=positive,
        metavar="N",
        help="with --probe: on N processes of this machine (default: those of torchrun or srun)",
    )
    add("--save-cluster", type=Path, metavar="FILE", help="with --probe: keep what was measured")
    for flag, unit, text in (
        ("--gbit-between", "GBIT", "Gbit/s that a node sends to others"),
        ("--gbit-within", "GBIT", "Gbit/s that a rank sends to others of its node"),
        ("--tflops", "T", "TFLOP/s of a rank's matrix products, as they are reached"),
        ("--memory-gib", "GIB", "memory of a rank"),
        ("--memory-gbytes-per-s", "GB", "GB/s of that memory"),
    ):
        add(flag, type=_RATE, metavar=unit, help=f"{text} (default: the machine's)")
    for flag, where in ("--latency-between", "another node"), ("--latency-within", "its node"):
        add(
            flag,
            type=finite_number(least=0),
            metavar="US",
            help=f"microseconds that a message to {where} costs a rank (default: the machine's)",
        )


def _add_layout(add: Callable) -> None:
    add("--moe-nodes", type=_COUNT, metavar="N", help="nodes (default: the machine's)")
    add(
        "--moe-ranks-per-node",
        type=_COUNT,
        metavar="L",
        help="accelerators a node (default: the machine's)",
    )
    add(
        "--tokens",
        type=positive,
        default=4096,
        metavar="T",
        help="tokens of a rank in each stack and update; --max-tokens without padding "
        "(default: %(default)s)",
    )
    add(
        "--sentence-length",
        type=positive,
        default=32,
        metavar="S",
        help="tokens of a sentence (default: %(default)s)",
    )
    add(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="of weights and activations (default: %(default)s)",
    )
    add(
        "--optimizer",
        choices=("moe_adam", "adam", "nag", "sgd"),
        default="moe_adam",
        help="(default: %(default)s)",
    )
    add(
        "--dropout",
        type=finite_number(least=0, most=0.99),
        default=0.1,
        metavar="P",
        help="of the layers' outputs; it keeps masks (default: %(default)s)",
    )
    add("--checkpoint-activations", action="store_true", help="recompute layers")
    add(
        "--train-tokens",
        type=finite_number(least=1, most=1e18),
        metavar="N",
        help="say how many GPU hours so many target tokens take",
    )


def _add_model(add: Callable) -> None:
    add("--arch", choices=tuple(SIZES), default="scomoe_base", help="(default: %(default)s)")
    for stack in "encoder", "decoder":
        for name, text in (
            ("embed-dim", "width"),
            ("ffn-embed-dim", "hidden width of feed-forward layers"),
            ("layers", "layers"),
            ("attention-heads", "heads of attention"),
        ):
            add(
                f"--{stack}-{name}",
                type=positive,
                metavar="N",
                help=f"{text} of the {stack} (default: the architecture's)",
            )
        add(f"--{stack}-normalize-before", action="store_true", help="norms before each part")
    add(
        "--vocabulary",
        type=positive,
        default=32000,
        metavar="V",
        help="entries of the dictionary (default: %(default)s)",
    )
    add(
        "--target-vocabulary",
        type=positive,
        metavar="V",
        help="entries of the target's (default: those of --vocabulary)",
    )
    add(
        "--share-all-embeddings", action="store_true", help="one matrix for both stacks and outputs"
    )
    add("--share-decoder-input-output-embed", action="store_true", help="one for the decoder's two")


def _add_mixture(add: Callable) -> None:
    for flag, text in (
        ("--moe-freq", "every N-th feed-forward is a mixture"),
        ("--encoder-moe-freq", "the same for the encoder alone"),
        ("--decoder-moe-freq", "the same for the decoder alone"),
        ("--moe-expert-count", "experts of a layer, over all ranks"),
        ("--moe-expert-ffn-dim", "hidden width of an expert"),
        ("--moe-shared-expert-ffn-dim", "hidden width of a network beside the experts"),
        ("--moe-limit-nodes", "choose a token's experts on at most N nodes"),
        ("--moe-exchange-dim", "with --scomoe-type bottleneck: features that travel"),
    ):
        add(flag, type=_COUNT, metavar="N", help=text)
    add("--capacity-factor", type=finite_number(), metavar="F", help="slots; 0: dropless")
    add("--moe-expert-choice", action="store_true", help="experts of the encoder choose tokens")
    add(
        "--moe-gating-dropout",
        type=finite_number(),
        metavar="P",
        help="share of updates in which no token leaves its rank",
    )
    add("--moe-gating-dropout-skip", action="store_true", help="... or sees any expert")
    add("--moe-cmr", action="store_true", help="mix mixtures with a shared network")
    add("--moe-top1-expert", action="store_true", help="one expert a token")
    add(
        "--scomoe-type",
        choices=("none", "seq", "feat", "bottleneck"),
        help="plan this in detail (default: none, which is GShard); the others are compared",
    )
    add("--ratio1", type=finite_number(), metavar="A", help="share that stays on its rank")
    add("--ratio2", type=finite_number(), metavar="B", help="share that stays in its node")
    add("--token-cluster", action="store_true", help="cluster tokens")
    add("--reorder-layers", action="store_true", help="mixtures behind all attention")
    add("--scomoe-feat-projection", action="store_true", help="maps around the split")
    add("--scomoe-partition", choices=("quota", "threshold"), help="how Seq divides tokens")
    add("--layernorm-after-moe-layer", action="store_true", help="a norm behind experts")
    add(
        "--cluster-by",
        choices=("scores", "token", "language", "kmeans"),
        help="what clusters follow from",
    )
    add(
        "--moe-exchange",
        choices=("direct", "hierarchical"),
        help="once for each expert of a token, or once to each node that holds one",
    )
    add("--moe-exchange-schedule", choices=("overlap", "serial"), help="(default: overlap)")


def _add_output(add: Callable) -> None:
    add(
        "--grid",
        type=_SHARE,
        nargs="+",
        metavar="SHARE",
        help="ratios that Seq and Feat are planned with (default: 0 0.2 0.25 0.5 0.75)",
    )
    add(
        "--least-global-share",
        type=_SHARE,
        default=0.25,
        metavar="SHARE",
        help="of tokens, features or nodes that stay open to a token in what is called best "
        "(default: %(default)s)",
    )
    add("--all", action="store_true", help="show every point of the grid")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--out", type=Path, metavar="FILE", help="write a page")
