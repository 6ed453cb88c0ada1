"""The options of `scomoe-translate` and `scomoe-evaluate`."""

import argparse
import os

from user_dir.checkpoints.options.check import add_trust_option
from user_dir.option_values import finite_number, positive, whole_number
from user_dir.translation.batching import BatchLimits
from user_dir.translation.overrides import overrides


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model translates between which languages."""
    parser.add_argument(
        "--path",
        required=True,
        metavar="CKPT[:CKPT...]",
        help="checkpoint; several with colons between decode as an ensemble",
    )
    add_checkpoint_options(parser)


def add_checkpoint_options(
    parser: argparse.ArgumentParser,
    *,
    of_languages: str = "language of the {side}; needed for a multilingual checkpoint",
    example: str = "{'moe_eval_capacity_token_fraction': 0.25}",
) -> None:
    """Add what belongs to a checkpoint besides its name.

    Args:
        of_languages: help on the options of languages.
        example: of --model-overrides.
    """
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR",
        help="folder with dict.LANGUAGE.txt (default: the one the checkpoint was trained on)",
    )
    add(
        "-s",
        "--source-lang",
        metavar="LANG",
        help=of_languages.format(side="input"),
    )
    add(
        "-t",
        "--target-lang",
        metavar="LANG",
        help=of_languages.format(side="output"),
    )
    add(
        "--lang-dict",
        metavar="FILE",
        help="list of languages of a multilingual checkpoint, if it is no longer where it was",
    )
    add(
        "--model-overrides",
        type=overrides,
        default={},
        metavar="DICT",
        help=f'options to change in the checkpoint, such as "{example}"',
    )
    add_trust_option(parser)


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how to search, and on what device."""
    add = parser.add_argument
    add("--beam", type=positive, default=5, help="beam size (default: %(default)s)")
    add(
        "--lenpen",
        type=finite_number(least=-10, most=10),
        default=1.0,
        help="length penalty; above 1 favours longer output (default: %(default)s)",
    )
    add(
        "--max-len-a",
        type=finite_number(least=0),
        default=0.0,
        metavar="A",
        help="output has at most A x source tokens + B tokens (default: %(default)s)",
    )
    add(
        "--max-len-b",
        type=whole_number(),
        default=200,
        metavar="B",
        help="see --max-len-a (default: %(default)s)",
    )
    add("--cpu", action="store_true", help="leave GPUs alone; without a GPU the default")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    precision.add_argument("--bf16", action="store_true", help="bfloat16, on a GPU or CPU")


def add_batching_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how much is translated at a time, by how many processes."""
    add = parser.add_argument
    add(
        "--max-tokens",
        type=positive,
        default=4096,
        help="source tokens of a batch, padding included (default: %(default)s)",
    )
    add("--batch-size", type=positive, help="most lines of a batch (default: no limit)")
    add(
        "--processes",
        type=positive,
        default=1,
        help="processes that share the batches, each with its own copy of the model "
        "(default: %(default)s)",
    )
    add(
        "--spread-experts",
        action="store_true",
        help="the --processes share the experts instead, for a model too large for one of them; "
        "their number must divide that of the model's logical ranks",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--progress",
        action="store_true",
        help="show lines, rate and time left on standard error (default: on a terminal)",
    )
    shown.add_argument("--quiet", action="store_true", help="show no progress")


def shows_progress(args: argparse.Namespace, *, output_on_terminal: bool = False) -> bool | None:
    """Whether to show progress, as of `Progress`; the output would run into it on a terminal."""
    if args.progress:
        return True
    return False if args.quiet or output_on_terminal else None


def batch_limits(args: argparse.Namespace) -> BatchLimits:
    """What the batches may hold."""
    return BatchLimits(
        max_tokens=args.max_tokens,
        batch_size=args.batch_size,
        # The limit counts the padded source, so a translation would depend on its batch.
        equal_lengths=args.max_len_a > 0,
        processes=args.processes,
    )


def checkpoint_paths(text: str) -> tuple[str, ...]:
    """The files that --path names: an existing one by its whole name, colons included."""
    parts = text.split(":")
    paths = []
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if os.path.isfile(":".join(parts[:end]))), 1)
        paths.append(":".join(parts[:end]))
        del parts[:end]
    return tuple(paths)
