"""Show examples and scores of an evaluation, and the speed of the training before it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import run_command
from user_dir.option_values import count
from user_dir.text.scoring.evaluation_folder import read_evaluation
from user_dir.text.scoring.score_tables import (
    language_groups,
    num_references,
    pooled_rows,
    score_table,
)
from user_dir.text.scoring.scores import signatures
from user_dir.text.scoring.tables import format_table
from user_dir.text.scoring.test_sets import Translated
from user_dir.text.scoring.train_log import read_train_log

COMMAND = "scomoe-report"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--evaluation", type=Path, required=True, metavar="DIR", help="what scomoe-evaluate wrote")
    add("--train-log", type=Path, metavar="FILE", help="--log-file of the training run")
    add("--examples", type=count, default=10, help="lines to show (default: %(default)s)")
    add(
        "--pivot",
        default="en",
        metavar="LANG",
        help="scores are from and into this language (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _report(args))


def _report(args: argparse.Namespace) -> None:
    translated = read_evaluation(args.evaluation, flag="--evaluation")
    _show_examples(translated, args.examples)
    rows = pooled_rows(translated, language_groups(args.pivot))
    print(f"\n{format_table(*score_table(rows, left_out=['chrF++']))}\n")
    targets = [one.test_set.direction.target for one in translated]
    references = num_references(translated)
    for name, signature in signatures(targets, references=references).items():
        print(f"{name}: {signature}")
    if args.train_log is not None:
        log = read_train_log(args.train_log)
        print(
            f"training: {log.updates} updates in {_rounded(log.wall_seconds)} s, "
            f"{_rounded(log.tokens_per_second)} tokens/s"
        )


def _rounded(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def _show_examples(translated: Sequence[Translated], count: int) -> None:
    """Show lines from directions in turn, the same ones every time; an arrow marks errors."""
    for number in range(count):
        one = translated[number * 7 % len(translated)]
        sources, references = one.test_set.sources, one.test_set.references
        line = (number * 13 + 5) % len(sources)
        wanted, got = references[line], one.translations[line]
        print(f"{one.test_set.direction}  {sources[line]}")
        print(f"       {got}")
        if got != wanted:
            print(f"    -> {wanted}")


if __name__ == "__main__":
    sys.exit(main())
