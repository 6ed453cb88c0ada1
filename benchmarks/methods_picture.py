"""Every method in one table and one picture: what it learns, sends, and takes.

    python -m benchmarks.methods_picture --corpus multi30k-short debian-short \\
      --out docs/pictures/methods.svg

Prints the table as markdown: bits against GShard on each corpus (less is better), and shares of
GShard's bytes and steps. Bytes are those between two nodes, in training on the first corpus, or of
steps or by counting where it was not trained; then those between more nodes by counting. Steps are
those behind the slow links of results/network.json, serial / with overlap where there is something
to overlap. What stands in brackets is another method's, as the last column says; in the picture
such points are hollow. It shows the first corpus.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning_picture import FAMILIES
from benchmarks.learning_results import CONTROL, RESULTS, Summary, read_results, summarise
from benchmarks.learning_variants import EXPERIMENTS
from benchmarks.methods import Method, all_methods
from benchmarks.network import control_of
from benchmarks.scatter import Point, scatter
from user_dir.reporting.figures import Figure
from user_dir.text.scoring.tables import format_markdown

WIDTH, HEIGHT = 460, 560
NODES = "2"  # in training, and behind the slow link
NETWORK, COUNTED = "network.json", "network_bytes.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
        learned: of each corpus, by variant.
        steps: of each link, by stack; that on which GShard waits least comes first.
        counted: bytes of a rank by stack, for each number of nodes.
    """

    learned: dict[str, dict[str, Summary]]
    steps: list[Record]
    counted: dict[str, dict[str, float]]

    @staticmethod
    def read(corpora: Sequence[str], folder: Path) -> "Results":
        """Read the files of a folder; one that is not there holds nothing."""
        learned = {
            corpus: {s.variant: s for s in summarise(read_results(corpus, folder / RESULTS.name))}
            for corpus in corpora
        }
        counted = {one["variant"]: one["bytes a rank"] for one in _records(folder / COUNTED)}
        return Results(learned, sorted(_records(folder / NETWORK), key=waiting_share), counted)


@dataclass(frozen=True)
class Value:
    """A number, and whether it was measured of the method itself."""

    mean: float
    half_width: float = 0.0
    is_own: bool = True


def waiting_share(record: Record) -> float:
    """What part of its step GShard waits for exchanges."""
    gshard = record["variants"][CONTROL]
    return statistics.median(gshard["waiting"]) / statistics.median(gshard["serial"])


def bits(method: Method, learned: dict[str, Summary]) -> Value | None:
    """Against GShard on the seeds that both have; None: not measured."""
    summary = learned.get(method.learned or "")
    if summary is None or CONTROL not in learned:
        return None
    is_own = not method.whose_results
    if summary.variant == CONTROL:
        return Value(0.0, 0.0, is_own)
    if summary.difference is None:
        return None
    return Value(summary.difference.mean, summary.difference.half_width or 0.0, is_own)


def bytes_between(method: Method, results: Results) -> Value | None:
    """Between two nodes, of GShard's: in training on the first corpus, else in the steps that were
    timed, else by counting."""
    learned = next(iter(results.learned.values()))
    # Where its results are another's, its bytes are not.
    summary = None if method.whose_results else learned.get(method.learned or "")
    if summary is not None and CONTROL in learned:
        return Value(summary.megabytes / learned[CONTROL].megabytes)
    variants = results.steps[0]["variants"] if results.steps else {}
    if method.stack not in variants:
        return bytes_counted(method, results.counted, NODES)
    share = variants[method.stack]["formula"] / variants[CONTROL]["formula"]
    return Value(share, is_own=not method.whose_steps)


def bytes_counted(method: Method, counted: dict[str, dict[str, float]], nodes: str) -> Value | None:
    """Between so many nodes, of GShard's."""
    of_stack = counted.get(method.stack or "")
    if of_stack is None or CONTROL not in counted or nodes not in of_stack:
        return None
    return Value(of_stack[nodes] / counted[CONTROL][nodes], is_own=not method.whose_steps)


def step(method: Method, record: Record, schedule: str) -> Value | None:
    """Seconds of a step, of GShard's; None: not measured, or nothing can overlap."""
    stack = method.stack
    if stack not in record["variants"] or not record["variants"][stack][schedule]:
        return None
    seconds = statistics.median(record["variants"][stack][schedule])
    base = statistics.median(control_of(record, stack)["serial"])
    return Value(seconds / base, is_own=not method.whose_steps)


def best_step(method: Method, record: Record) -> Value | None:
    """With overlap, which is on by default, where there is something to overlap."""
    return step(method, record, "overlap") or step(method, record, "serial")


# --- the table ------------------------------------------------------------------------------------


def table(results: Results, methods: Sequence[Method]) -> str:
    """Of markdown; no cell is empty."""
    numbers = {number for of_stack in results.counted.values() for number in of_stack} - {NODES}
    more_nodes = sorted(numbers, key=int)
    header = ["method", *(f"bits, {corpus}" for corpus in results.learned)]
    header += ["bytes", *(f"bytes, {n} nodes" for n in more_nodes)]
    for record in results.steps:
        header.append(f"step at {waiting_share(record):.0%} exchange")
    rows = [[*_cells(method, results, more_nodes), method.remarks] for method in methods]
    return format_markdown([*header, "remarks"], rows)


def _cells(method: Method, results: Results, more_nodes: Sequence[str]) -> list[str]:
    cells = [method.name]
    for learned in results.learned.values():
        cells.append(_bits_text(bits(method, learned), method))
    cells.append(_text(bytes_between(method, results), method.no_steps))
    cells += [_text(bytes_counted(method, results.counted, n), method.no_steps) for n in more_nodes]
    for record in results.steps:
        both = [step(method, record, schedule) for schedule in ("serial", "overlap")]
        found = [value for value in both if value is not None]
        text = " / ".join(f"{value.mean:.2f}" for value in found)
        cells.append(_in_brackets(text, found[0]) if found else method.no_steps)
    return cells


def _bits_text(value: Value | None, method: Method) -> str:
    if value is None:
        return method.no_results
    if method.learned == CONTROL and value.is_own:
        return "0"
    about = f" ± {value.half_width:.3f}" if value.half_width else ""
    return _in_brackets(f"{value.mean:+.3f}{about}", value)


def _text(value: Value | None, nothing: str) -> str:
    return nothing if value is None else _in_brackets(f"{value.mean:.2f}", value)


def _in_brackets(text: str, value: Value) -> str:
    return text if value.is_own else f"({text})"


# --- the picture ----------------------------------------------------------------------------------


def draw(results: Results, methods: Sequence[Method]) -> Figure:
    """Quality against bytes, and against the step on the first link."""
    corpus, learned = next(iter(results.learned.items()))
    panels: list[list[Point]] = [[], []]
    for method in methods:
        quality = bits(method, learned)
        places = (
            bytes_between(method, results),
            best_step(method, results.steps[0]) if results.steps else None,
        )
        for points, place in zip(panels, places, strict=True):
            if quality is not None and place is not None:
                points.append(_point(method, quality, place))
    share = f"{waiting_share(results.steps[0]):.0%}" if results.steps else ""
    titles = ("bytes between nodes, of GShard's", f"step, of GShard's at {share} exchange")
    families = [name for name, _ in FAMILIES]
    specs = [
        scatter(
            points,
            families=families,
            x_title=title,
            y_title="bits against GShard",
            width=WIDTH,
            height=HEIGHT,
        )
        for points, title in zip(panels, titles, strict=True)
        if points
    ]
    return Figure(
        key=f"methods-{corpus}",
        title=f"Quality against bytes and steps: {corpus}",
        alternative=f"Bits against GShard on {corpus} over shares of its bytes and of its step: "
        + "; ".join(f"{p.label} {p.y:+.2f} at {p.x:.2f} of the bytes" for p in panels[0]),
        spec={"hconcat": specs, "resolve": {"scale": {"color": "shared"}}},
    )


def _point(method: Method, quality: Value, place: Value) -> Point:
    return Point(
        label=method.name,
        family=method.family,
        x=place.mean,
        y=quality.mean,
        low=quality.mean - quality.half_width,
        high=quality.mean + quality.half_width,
        is_own=quality.is_own and place.is_own,
    )


def _records(path: Path) -> list[Record]:
    return json.loads(path.read_text())["records"] if path.exists() else []


def main() -> None:
    """Print the table; draw the picture if it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=tuple(EXPERIMENTS), nargs="+", required=True)
    parser.add_argument(
        "--results", type=Path, default=RESULTS.parent, help="the folder of the files (results)"
    )
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="draw these, by their names")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="METHOD", help="do not draw these"
    )
    parser.add_argument("--out", type=Path, help="an .svg, .png or .pdf file")
    args = parser.parse_args()
    results, methods = Results.read(args.corpus, args.results), all_methods()
    if not results.learned[args.corpus[0]]:
        parser.error(f"--corpus {args.corpus[0]}: nothing was measured, says {args.results}")
    names = {method.name for method in methods}
    for name in [*(args.only or ()), *args.leave_out]:
        if name not in names:
            parser.error(f"there is no method {name}; there are {', '.join(sorted(names))}")
    print(table(results, methods))
    if args.out is not None:
        wanted = set(args.only or names) - set(args.leave_out)
        drawn = draw(results, [method for method in methods if method.name in wanted])
        args.out.write_bytes(drawn.drawn(args.out.suffix[1:]))


if __name__ == "__main__":
    main()
