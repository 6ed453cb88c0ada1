"""Gathers what runs of `benchmarks.learning` gave, and says how sure it is.

    python -m benchmarks.learning_results --corpus multi30k-short --runs runs/short
    python -m benchmarks.learning_results --corpus multi30k-short

The first adds the runs that are complete to results/learning.json, by variant and seed; both print
the table. Intervals are of 95 %, from Student's distribution with one standard deviation for all
variants: that of the seeds around their variant's mean, pooled. A variant is compared with the
control on the seeds that both have, seed by seed, for the seed draws the same batches in both.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import t as student

from benchmarks.learning_variants import ALL, EXPERIMENTS
from user_dir.text.scoring.tables import format_markdown

RESULTS = Path(__file__).parent / "results" / "learning.json"
CONTROL = "gshard"
HEADER = ("variant", "seeds", "parameters", "nll, half", "nll, end", "against GShard")
HEADER += ("BLEU", "chrF", "balance", "MB between nodes")
Record = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean and half the width of its interval; None where no seeds tell of one."""

    mean: float
    half_width: float | None

    def text(self, *, digits: int = 3, sign: str = "") -> str:
        about = "" if self.half_width is None else f" ± {self.half_width:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{about}"


@dataclass(frozen=True)
class Summary:
    """What the seeds of a variant say together."""

    variant: str
    seeds: list[int]
    parameters: int
    nll_half: Estimate
    nll_end: Estimate
    difference: Estimate | None  # of nll at the end from the control's, in bits
    bleu: Estimate | None  # at the end, of the test set
    chrf: Estimate | None
    balance: float | None
    megabytes: float


def estimates(groups: Mapping[str, list[float]]) -> dict[str, Estimate]:
    """Every group's mean, with an interval from the spread that all groups share."""
    degrees = sum(len(values) - 1 for values in groups.values())
    squares = sum((v - mean(values)) ** 2 for values in groups.values() for v in values)
    found = {}
    for name, values in groups.items():
        half_width = None
        if degrees:
            spread = (squares / degrees) ** 0.5
            half_width = float(student.ppf(0.975, degrees)) * spread / len(values) ** 0.5
        found[name] = Estimate(mean(values), half_width)
    return found


def summarise(records: Iterable[Record], control: str = CONTROL) -> list[Summary]:
    """One summary a variant, in the order in which the variants are listed."""
    by_variant: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: (list(ALL).index(r["variant"]), r["seed"])):
        by_variant.setdefault(record["variant"], []).append(record)
    half, end = (_estimated(by_variant, key) for key in ("nll_half", "nll_end"))
    bleu, chrf = (_estimated(by_variant, key) for key in ("bleu_end", "chrf_end"))
    differences = _differences(by_variant, control)
    return [
        Summary(
            variant=variant,
            seeds=[r["seed"] for r in found],
            parameters=found[0]["parameters"],
            nll_half=half[variant],
            nll_end=end[variant],
            difference=differences.get(variant),
            bleu=bleu.get(variant),
            chrf=chrf.get(variant),
            balance=None if found[0]["balance"] is None else mean(r["balance"] for r in found),
            megabytes=mean(r["bytes_between"] for r in found) / 1e6,
        )
        for variant, found in by_variant.items()
    ]


def _estimated(by_variant: dict[str, list[Record]], key: str) -> dict[str, Estimate]:
    """Of the variants that have it: BLEU may not have been taken."""
    groups = {v: [r[key] for r in found if r.get(key)] for v, found in by_variant.items()}
    return estimates({variant: values for variant, values in groups.items() if values})


def _differences(by_variant: dict[str, list[Record]], control: str) -> dict[str, Estimate]:
    of_control = {r["seed"]: r["nll_end"] for r in by_variant.get(control, ())}
    groups = {
        variant: [r["nll_end"] - of_control[r["seed"]] for r in found if r["seed"] in of_control]
        for variant, found in by_variant.items()
        if variant != control
    }
    return estimates({variant: values for variant, values in groups.items() if values})


def table(summaries: Iterable[Summary]) -> str:
    """In markdown."""
    rows = [
        (
            s.variant,
            str(len(s.seeds)),
            f"{s.parameters / 1e6:.2f} M",
            s.nll_half.text(),
            s.nll_end.text(),
            s.difference.text(sign="+") if s.difference else "",
            s.bleu.text(digits=1) if s.bleu else "",
            s.chrf.text(digits=1) if s.chrf else "",
            "" if s.balance is None else f"{s.balance:.2f}",
            f"{s.megabytes:.1f}",
        )
        for s in summaries
    ]
    return format_markdown(HEADER, rows)


def read_results(corpus: str, path: Path = RESULTS) -> list[Record]:
    """What was gathered for a corpus."""
    return json.loads(path.read_text()).get(corpus, []) if path.exists() else []


def add_runs(corpus: str, runs: Path, path: Path = RESULTS) -> list[Record]:
    """Add the complete runs of a folder, in place of older ones of the same variant and seed."""
    known = {(r["variant"], r["seed"]): r for r in read_results(corpus, path)}
    for file in sorted(runs.glob("*/result.json")):
        record = json.loads(file.read_text())
        known[record["variant"], record["seed"]] = record
    order = list(ALL)
    records = sorted(known.values(), key=lambda r: (order.index(r["variant"]), r["seed"]))
    everything = json.loads(path.read_text()) if path.exists() else {}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(everything | {corpus: records}, indent=1) + "\n")
    partial.replace(path)
    return records


def main() -> None:
    """Gather if there are runs, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=tuple(EXPERIMENTS), required=True)
    parser.add_argument("--runs", type=Path, help="the folder that benchmarks.learning wrote")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"the file ({RESULTS.name})")
    args = parser.parse_args()
    if args.runs:
        records = add_runs(args.corpus, args.runs, args.results)
    else:
        records = read_results(args.corpus, args.results)
    if not records:
        parser.error(f"--corpus {args.corpus}: no complete run in {args.runs or args.results}")
    print(table(summarise(records)))


if __name__ == "__main__":
    main()
