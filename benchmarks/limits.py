"""Memory and time at the limits: very long lines, long texts, many pairs, languages, directions.

    python -m benchmarks.limits                     (half an hour on two cores)
    python -m benchmarks.limits --only many-lines   (one case; the others' figures stay)

Commands run as a user types them, each in a process of its own. Every case is written to the JSON
when it is done, and `--page docs/limits.md` puts the table of all that is there into the page.
Inputs are made up; they and what is made of them stay in --work until the next run.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from benchmarks.limits_cases import CASES, TINY_SIZES, Sizes, clear
from benchmarks.processes import ROOT, measure_command
from benchmarks.timing import parse_arguments, write_results
from benchmarks.trainers import require_fairseq
from user_dir.text.scoring.tables import format_markdown

BEGIN, END = "<!-- benchmarks.limits -->", "<!-- end of benchmarks.limits -->"
HEADER = (
    "case",
    "command",
    "s",
    "processor s",
    "largest process, MiB",
    "all together, MiB",
    "first half, second half, MiB",
)
_SIZES = [field.name for field in fields(Sizes) if field.name != "is_small"]


def main() -> None:
    """Measure the cases; print a table, write JSON and the page."""
    args = parse_arguments(__doc__, _add_options)
    require_fairseq("benchmarks.limits")
    torch.set_num_threads(1)  # as in the commands, for what is written about the hardware
    sizes = _sizes(args)
    path = args.results / f"limits{'.small' if args.small else ''}.json"
    records = json.loads(path.read_text())["records"] if path.exists() else []
    for case in [args.only] if args.only else CASES:
        found = measure_case(case, (args.work / case).resolve(), sizes)
        kept = [record for record in records if record["case"] != case]
        records = sorted(kept + found, key=lambda record: list(CASES).index(record["case"]))
        write_results("limits", records, args)
    print(table(records))
    if args.page:
        write_page(args.page, records)


def measure_case(case: str, work: Path, sizes: Sizes) -> list[dict]:
    """The figures of each of a case's commands, in the order in which they need each other."""
    work.mkdir(parents=True, exist_ok=True)
    records = []
    for number, step in enumerate(CASES[case](work, sizes)):
        clear(step.output)
        usage = measure_command(step.command, work / f"{number}.log")
        name = str(step.command[0]).rpartition(".")[2]
        records.append({"case": case, "what": step.what, "command": name, **asdict(usage)})
    return records


def table(records: Sequence[dict]) -> str:
    """The figures as markdown."""
    return format_markdown(HEADER, [_row(record) for record in records])


def write_page(page: Path, records: Sequence[dict]) -> None:
    """Put the table into a page, between the two marks that it has."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"--page ({page}): has no place for the table: {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{table(records)}\n{END}{after}", encoding="utf-8")


def _row(record: dict) -> tuple[str, ...]:
    half = len(record["tenths_mib"]) // 2
    halves = (record["tenths_mib"][:half], record["tenths_mib"][half:])
    numbers = [record[name] for name in ("seconds", "processor_seconds")]
    memory = [record[name] for name in ("largest_mib", "together_mib")]
    return (
        record["what"],
        f"`scomoe-{record['command']}`",
        *(f"{number:.0f}" for number in [*numbers, *memory]),
        " ".join(f"{max(part):.0f}" for part in halves),
    )


def _sizes(args: argparse.Namespace) -> Sizes:
    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    return replace(TINY_SIZES if args.small else Sizes(), **given)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", choices=list(CASES), help="this case only (default: all)")
    add(
        "--work",
        type=Path,
        default=ROOT / "runs" / "limits",
        metavar="FOLDER",
        help="for the inputs (default: runs/limits; 1 GB)",
    )
    add("--page", type=Path, metavar="FILE", help="the page of markdown to put the table into")
    for name in _SIZES:
        usual = getattr(Sizes, name)
        add(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"(default: {usual:,})")


if __name__ == "__main__":
    main()
