"""Prepare the numbers corpus: numbers in words, English to and from many languages."""

import argparse
import sys
from collections.abc import Sequence

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.prepared_folder import add_output_options, step
from user_dir.cli.preparing.small_corpus import write_prepared_folder
from user_dir.option_values import whole_number
from user_dir.text.sources.numbers import DEFAULT_LANGUAGES, NumbersPlan, numbers_corpus
from user_dir.text.whole_output import check_replaceable

COMMAND = "prepare_numbers"

# Few pieces learn faster: a piece should be a part of one number word, not of two.
_PIECES = 100
_PIECES_PER_LANGUAGE = 50


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/corpora.md describes what is written."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add_output_options(
        parser,
        vocab_size=None,
        vocab_size_help=f"{_PIECES} and {_PIECES_PER_LANGUAGE} for each language",
    )
    parser.add_argument(
        "--languages",
        default=",".join(DEFAULT_LANGUAGES),
        help="num2words codes, each paired with English (default: %(default)s)",
    )
    parser.add_argument(
        "--train-pairs-per-language",
        type=whole_number(),
        default=2000,
        help="training numbers of each language (default: %(default)s)",
    )
    for split, lines in ("valid", 320), ("test", 600):
        parser.add_argument(
            f"--{split}-lines",
            type=whole_number(),
            default=lines,
            help=f"{split} lines of all languages and both directions (default: %(default)s)",
        )
    parser.add_argument(
        "--max-digits",
        type=whole_number(),
        default=6,
        help="digits of the longest numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole_number(), default=1, help="draws the numbers (default: %(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug)


def _prepare(args: argparse.Namespace) -> None:
    check_replaceable(args.out, overwrite=args.overwrite)
    plan = NumbersPlan(
        languages=args.languages.split(","),
        train_pairs_per_language=args.train_pairs_per_language,
        valid_lines=args.valid_lines,
        test_lines=args.test_lines,
        max_digits=args.max_digits,
        seed=args.seed,
    )
    vocab_size = args.vocab_size
    if vocab_size is None:
        vocab_size = _PIECES + _PIECES_PER_LANGUAGE * len(plan.languages)
    step(f"writing numbers in words, English and {len(plan.languages)} languages")
    corpus = numbers_corpus(plan)
    write_prepared_folder(corpus, args.out, vocab_size=vocab_size, overwrite=args.overwrite)


if __name__ == "__main__":
    sys.exit(main())
