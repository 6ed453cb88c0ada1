"""Make a corpus of random sentences, to measure the speed of training without a real one.

Writes DIR/bin as fairseq-preprocess would. What is there already is kept if it was made with the
same options.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from user_dir.cli.command import CommandParser, run_command
from user_dir.option_values import count, positive
from user_dir.text.whole_output import new_folder

COMMAND = "make_dummy_corpus"

_SPLITS = {"train": 1, "valid": 100}  # one sentence of the training data in so many
_SETTINGS = "dummy.json"


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add("--sentences", type=positive, default=100_000, help="training pairs (%(default)s)")
    add("--vocab-size", type=positive, default=32_000, help="different tokens (%(default)s)")
    add("--length", type=_lengths, default=(10, 50), metavar="A-B", help="in tokens (10-50)")
    add("--languages", type=_languages, default=("en", "fr"), metavar="A-B", help="names (en-fr)")
    add("--seed", type=count, default=1, help="draws the sentences (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _make(args), debug=args.debug)


def _make(args: argparse.Namespace) -> None:
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "debug")}
    text = json.dumps(settings, sort_keys=True) + "\n"
    known = args.out / "bin" / _SETTINGS
    was_made = known.is_file()
    if was_made and known.read_text(encoding="utf-8") == text:
        print(f"{args.out} holds the same made sentences already")
        return
    with new_folder(args.out, overwrite=was_made) as folder:
        destination = folder / "bin"
        destination.mkdir()
        random = np.random.default_rng(args.seed)
        pair = "-".join(args.languages)
        for language in args.languages:
            _write_dictionary(destination / f"dict.{language}.txt", args.vocab_size)
            for split, divisor in _SPLITS.items():
                count = -(-args.sentences // divisor)
                _write_side(destination / f"{split}.{pair}.{language}", count, args, random)
        (destination / _SETTINGS).write_text(text, encoding="utf-8")
    print(f"wrote {args.out}: {args.sentences:,} made sentence pairs", flush=True)


def _write_dictionary(path: Path, vocab_size: int) -> None:
    path.write_text("".join(f"w{index} 1\n" for index in range(vocab_size)), encoding="utf-8")


def _write_side(
    prefix: Path, count: int, args: argparse.Namespace, random: np.random.Generator
) -> None:
    # Here, not at the top: --help and mistakes in the options need no fairseq.
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    specials = Dictionary()
    size = len(specials) + args.vocab_size
    builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=size)
    shortest, longest = args.length
    lengths = random.integers(shortest, longest + 1, size=count)
    tokens = len(specials) + _draw_words(int(lengths.sum()), args.vocab_size, random)
    for sentence in np.split(tokens, np.cumsum(lengths)[:-1]):
        builder.add_item(torch.from_numpy(np.append(sentence, specials.eos())))
    builder.finalize(f"{prefix}.idx")


def _draw_words(count: int, vocab_size: int, random: np.random.Generator) -> np.ndarray:
    """Words by Zipf's law: gates see frequent and rare ones, as in real text."""
    weights = 1 / np.arange(1, vocab_size + 1)
    limits = np.cumsum(weights / weights.sum())
    return np.minimum(np.searchsorted(limits, random.random(count)), vocab_size - 1)


def _lengths(text: str) -> tuple[int, int]:
    try:
        shortest, longest = map(positive, text.split("-"))
    except (ValueError, argparse.ArgumentTypeError):
        shortest, longest = 1, 0
    if shortest > longest:
        raise argparse.ArgumentTypeError(f"must be two numbers such as 10-50, not {text!a}")
    return shortest, longest


def _languages(text: str) -> tuple[str, str]:
    source, _, target = text.partition("-")
    if not source or not target or source == target or "-" in target:
        raise argparse.ArgumentTypeError(f"must be two languages such as en-fr, not {text!r}")
    return source, target


if __name__ == "__main__":
    sys.exit(main())
