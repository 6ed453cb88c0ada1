"""Compare evaluations of the same test sets: scores with intervals, differences with significance.

The first folder is the baseline. By direction and over all lines together; an asterisk marks what
paired bootstrap resampling finds no chance (p < 0.05).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.option_values import positive
from user_dir.text.pairs import Pair
from user_dir.text.scoring.comparison import METRICS, Compared, Interval, compare
from user_dir.text.scoring.evaluation_folder import read_evaluation
from user_dir.text.scoring.score_tables import scored_together
from user_dir.text.scoring.tables import format_markdown, format_table, format_tsv
from user_dir.text.scoring.test_sets import Translated
from user_dir.text.whole_output import write_whole

COMMAND = "scomoe-compare"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("evaluations", nargs="+", type=Path, metavar="DIR", help="what scomoe-evaluate wrote")
    add("--names", metavar="A,B", help="names for the table (default: those of the folders)")
    add(
        "--samples",
        type=positive,
        default=1000,
        help="how often the test sets are drawn anew (default: %(default)s)",
    )
    add(
        "--output",
        type=Path,
        metavar="STEM",
        help="write STEM.md, STEM.tsv and STEM.json as well",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _compare(args), debug=args.debug)


def _compare(args: argparse.Namespace) -> None:
    systems = dict(zip(_names(args), map(_read, args.evaluations), strict=True))
    common = _common_directions(systems)
    compared = [
        compare(
            str(direction),
            {name: scored_together([one[direction]]) for name, one in systems.items()},
            samples=args.samples,
        )
        for direction in common
    ]
    if len(common) > 1:
        everything = {
            name: scored_together([one[d] for d in common]) for name, one in systems.items()
        }
        compared.append(compare("all", everything, samples=args.samples))
    header, rows = _table(compared)
    print(format_table(header, rows))
    print(f"\n± half a 95 % interval; * p < 0.05 against {compared[0].systems[0]}")
    if args.output is not None:
        _write(args.output, header, rows, compared)


def _names(args: argparse.Namespace) -> list[str]:
    if len(args.evaluations) < 2:
        raise UserError("give two or more folders; the first is what the others are compared with")
    names = args.names.split(",") if args.names else [str(path) for path in args.evaluations]
    if len(names) != len(args.evaluations) or len(set(names)) < len(names):
        raise UserError(
            f"--names ({args.names}): {len(args.evaluations)} different names are needed, one for "
            "each folder"
        )
    return names


def _read(folder: Path) -> dict[Pair, Translated]:
    found = read_evaluation(folder, flag="DIR")
    return {one.test_set.direction: one for one in found}


def _common_directions(systems: dict[str, dict[Pair, Translated]]) -> list[Pair]:
    baseline, *others = systems.values()
    common = [one for one in baseline if all(one in of_system for of_system in others)]
    if not common:
        raise UserError("the evaluations have no direction in common; evaluate the same ones")
    missing = {str(one) for of_system in systems.values() for one in of_system} - {
        *map(str, common)
    }
    if missing:
        print(
            f"{COMMAND}: left out, for not every evaluation has them: {', '.join(sorted(missing))}",
            file=sys.stderr,
        )
    return common


def _table(compared: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    header = ["", "lines", *(f"{m}: {name}" for m in METRICS for name in compared[0].systems)]
    rows = [
        [
            one.name,
            str(one.lines),
            *(_cell(interval) for metric in METRICS for interval in one.by_metric[metric]),
        ]
        for one in compared
    ]
    return header, rows


def _cell(interval: Interval) -> str:
    mark = "*" if interval.is_significant else ""
    return f"{interval.score:.1f} ± {interval.half_width:.1f}{mark}"


def _write(
    stem: Path, header: list[str], rows: list[list[str]], compared: Sequence[Compared]
) -> None:
    baseline = compared[0].systems[0]
    note = f"± half a 95 % interval; \\* p < 0.05 against {baseline}, by paired bootstrap"
    record = [asdict(one) for one in compared]
    for suffix, text in (
        (".md", f"{format_markdown(header, rows)}\n\n{note}\n"),
        (".tsv", format_tsv(header, rows) + "\n"),
        (".json", json.dumps(record, indent=2, ensure_ascii=False) + "\n"),
    ):
        write_whole(stem.with_name(stem.name + suffix), text, flag="--output")


if __name__ == "__main__":
    sys.exit(main())
