"""Show examples and scores of an evaluation, and the speed of the training before it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import run_command
from user_dir.cli.evaluate import SETTINGS
from user_dir.errors import CorpusError, UserError
from user_dir.option_values import count
from user_dir.text.pairs import Pair
from user_dir.text.scoring.score_tables import HEADER, language_groups, pooled_rows
from user_dir.text.scoring.scores import signatures
from user_dir.text.scoring.tables import format_table
from user_dir.text.scoring.test_sets import Translated, read_test_set, read_translated
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
    translated = _read_evaluation(args.evaluation)
    _show_examples(translated, args.examples)
    rows = pooled_rows(translated, language_groups(args.pivot))
    print(f"\n{format_table(HEADER, [row.cells() for row in rows])}\n")
    for name, signature in signatures().items():
        print(f"{name}: {signature}")
    if args.train_log is not None:
        log = read_train_log(args.train_log)
        print(
            f"training: {log.updates} updates in {log.wall_seconds:.0f} s, "
            f"{log.tokens_per_second:.0f} tokens/s"
        )


def _read_evaluation(folder: Path) -> list[Translated]:
    """The directions whose translation is complete, by name."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        corpus, subset = Path(settings["corpus"]), settings["subset"]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"--evaluation ({folder}) holds no {SETTINGS}; name a folder that scomoe-evaluate wrote"
        ) from None
    found = []
    for path in sorted(folder.glob(f"{subset}.*-*.*")):
        test_set = read_test_set(corpus, subset, Pair(*path.name.split(".")[1].split("-")))
        one = read_translated(folder, subset, test_set)
        if one is not None:
            found.append(one)
    if not found:
        raise CorpusError(f"--evaluation ({folder}) holds no translation; evaluate it to the end")
    return found


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
