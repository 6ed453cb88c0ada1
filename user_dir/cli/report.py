"""Show what runs did: a page of figures, scores and translations, or a summary in the terminal.

scomoe-report RUN [RUN ...] --out report.html       the page
scomoe-report --text --evaluation DIR --train-log FILE    the summary
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
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
from user_dir.text.whole_output import whole_file, write_whole

COMMAND = "scomoe-report"
_FORMATS = ("svg", "png", "pdf")


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/report.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="--save-dir of a run, finished or not; of several runs curves stand together",
    )
    add("--out", type=Path, metavar="FILE", help="the page to write (default: report.html)")
    for form in _FORMATS:
        add(f"--{form}", type=Path, metavar="DIR", help=f"write every figure to DIR as {form} too")
    add(
        "--evaluation",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="what scomoe-evaluate wrote; once for each run, in their order (default: the folder "
        "`evaluation` in the run or beside it)",
    )
    text = parser.add_argument_group("the summary in the terminal")
    add = text.add_argument
    add("--text", action="store_true", help="print it; without a RUN that is the default")
    add("--train-log", type=Path, metavar="FILE", help="train.log of the run, or its --log-file")
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
    is_text = args.text or (not args.runs and bool(args.evaluation))
    return run_command(
        COMMAND, lambda: _summarise(args) if is_text else _write_page(args), debug=args.debug
    )


def _write_page(args: argparse.Namespace) -> None:
    if not args.runs:
        raise UserError(
            "name a run, the --save-dir of its training; or --text and --evaluation for a summary"
        )
    try:
        from user_dir.reporting.page import all_figures, render
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page is drawn with packages that are not installed ({error.name}); install them "
            "with: pip install 'scomoe[report]', or print the summary with --text"
        ) from None
    from user_dir.reporting.runs import read_runs

    runs = read_runs(args.runs, args.evaluation)
    out = args.out or Path("report.html")
    write_whole(out, render(runs), flag="--out")
    print(f"wrote {out}")
    for form in _FORMATS:
        folder = getattr(args, form)
        if folder is not None:
            figures = all_figures(runs)
            _write_figures(figures, folder, form)
            print(f"wrote {len(figures)} figures to {folder}")


def _write_figures(figures: dict, folder: Path, form: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{form} ({folder}) cannot be made ({error.strerror})") from None
    for name, figure in figures.items():
        with whole_file(folder / f"{name}.{form}", flag=f"--{form}") as file:
            file.write(figure.drawn(form))


def _summarise(args: argparse.Namespace) -> None:
    if len(args.evaluation) != 1:
        raise UserError("--text needs --evaluation once: the folder that scomoe-evaluate wrote")
    translated = read_evaluation(args.evaluation[0], flag="--evaluation")
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
