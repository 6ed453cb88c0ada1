"""Times a step of mixtures over a slow network: 2 nodes x 2 ranks, made of network namespaces.

    python -m benchmarks.network        (root, iproute2; about a quarter of an hour)
    python -m benchmarks.network --only "gating dropout"     (adds to what was measured before)

The link between the nodes is shaped so that GShard spends about two thirds, then four fifths, of
its step in exchange: the time in which a rank waits for rows, measured. A first bandwidth follows
from a step without a limit, and is corrected by a few steps with it. A step is the forward and
backward pass of six mixtures of scomoe_base's width, without attention and optimizer. Variants
take turns in one run. Then `benchmarks.network_bytes` counts what would be sent between more nodes.

The limit of a serial schedule is 1 / (1 - s + s · b), where s is the share of its step in which
GShard waits, and b the variant's bytes between nodes over GShard's. It takes the variant's
arithmetic for GShard's, and its exchanges inside a node for free. A variant that was added is
compared with the GShard that took turns with it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.network_bytes import print_counts
from benchmarks.network_stacks import STACKS, StepSize
from benchmarks.timing import hardware, parse_arguments, results_path, write_results
from benchmarks.two_nodes import NODES, read_ranks, shape, start_ranks, two_nodes
from user_dir.text.scoring.tables import format_markdown

# GShard's share of the step in exchange.
SHARES = (2 / 3, 4 / 5)
SIZE = StepSize(sentences=8, length=64, dim=512, hidden=1024)
SMALL = StepSize(sentences=2, length=8, dim=32, hidden=32)
CONTROL, BESIDE = "gshard", "gshard beside"
HEADER = (
    "variant",
    "serial s",
    "overlap s",
    "MB",
    "of formula",
    "limit",
    "serial",
    "of limit",
    "overlap",
    "hidden",
)


def main() -> None:
    """Measure without a limit, find the bandwidths, measure with them; print tables, write JSON."""
    args = parse_arguments(__doc__, _add_only)
    _refuse(args)
    recorded = _read_recorded(args) if args.only else None
    try:
        with two_nodes() as names:
            if recorded is None:
                records = _measure_all(names, SMALL if args.small else SIZE, repeat=args.repeat)
            else:
                records = _measure_more(names, recorded, args.only, repeat=args.repeat)
    except subprocess.CalledProcessError as error:
        sys.exit(f"benchmarks.network cannot make two nodes here: {error.stderr.strip()}")
    for record in records:
        print(_title(record), format_markdown(HEADER, table_rows(record)), sep="\n\n", end="\n\n")
    print(f"written to {write_results('network', records, args)}", end="\n\n")
    print_counts(args)


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(name for name in STACKS if name != CONTROL),
        metavar="VARIANT",
        help="measure these and GShard behind the links of the JSON, and add them there",
    )


def _read_recorded(args: argparse.Namespace) -> list[dict]:
    path = results_path("network", args)
    if not path.exists():
        sys.exit(f"--only adds to {path}, which is not there; leave it out for the first time")
    recorded = json.loads(path.read_text())
    here = hardware(args.device)
    for what in "cpu", "torch":
        if recorded["hardware"][what] != here[what]:
            sys.exit(
                f"--only adds to {path}, which was measured with {recorded['hardware'][what]}, and "
                f"here is {here[what]}; measure everything, or name another folder with --results"
            )
    return recorded["records"]


def _refuse(args: argparse.Namespace) -> None:
    """End the program with one sentence where it cannot do what it was asked for."""
    if args.device.type != "cpu":
        sys.exit(f"benchmarks.network runs on a CPU, not on --device {args.device}")
    if args.full:
        sys.exit("benchmarks.network has no larger grid; leave --full out")
    if os.geteuid():
        sys.exit("benchmarks.network makes network namespaces and needs root")
    for command in ("ip", "tc"):
        if not shutil.which(command):
            sys.exit(f"benchmarks.network needs the command {command}; apt-get install iproute2")


def _measure_all(names: Sequence[str], size: StepSize, *, repeat: int) -> list[dict]:
    """A record for every share of GShard's step."""
    unlimited = _run(names, size, repeat=repeat, stacks=[CONTROL])[CONTROL]
    records = []
    for share in SHARES:
        mbit = _find_bandwidth(names, size, unlimited, share)
        shape(names, mbit)
        records.append(
            {
                "mbit": mbit,
                "size": asdict(size),
                "unlimited": unlimited,
                "variants": _run(names, size, repeat=repeat, stacks=list(STACKS)),
            }
        )
    return records


def _measure_more(
    names: Sequence[str], records: list[dict], stacks: Sequence[str], *, repeat: int
) -> list[dict]:
    """The records with these stacks, and with each the GShard that took turns with it."""
    for record in records:
        shape(names, record["mbit"])
        size = StepSize(**record["size"])
        more = _run(names, size, repeat=repeat, stacks=[CONTROL, *stacks])
        beside = more.pop(CONTROL)
        variants = record["variants"] | {n: {**times, BESIDE: beside} for n, times in more.items()}
        record["variants"] = {name: variants[name] for name in STACKS if name in variants}
    return records


def control_of(record: dict, name: str) -> dict:
    """The GShard that took turns with a variant."""
    return record["variants"][name].get(BESIDE) or record["variants"][CONTROL]


def _find_bandwidth(names: Sequence[str], size: StepSize, gshard: dict, share: float) -> float:
    """Mbit/s at which GShard waits for this share of its step."""
    mbit = 0.0
    for _ in range(2):
        waiting = statistics.median(gshard["waiting"])
        computing = statistics.median(gshard["serial"]) - waiting
        wanted = computing * share / (1 - share)
        # At first as if it waited for the link alone; then by how long it did wait.
        mbit = mbit * waiting / wanted if mbit else gshard["bytes"] / NODES * 8 / wanted / 1e6
        shape(names, mbit)
        gshard = _run(names, size, repeat=3, stacks=[CONTROL])[CONTROL]
    return mbit


def _run(names: Sequence[str], size: StepSize, *, repeat: int, stacks: list[str]) -> dict:
    """Start the four ranks and read what the first of them reports."""
    arguments = json.dumps({"size": asdict(size), "repeat": repeat, "names": stacks})
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        ranks = start_ranks(names, "benchmarks.network_rank", rendezvous, arguments)
        return json.loads(read_ranks(ranks, seconds=1800)[0])


# --- the table ------------------------------------------------------------------------------------


def _title(record: dict) -> str:
    gshard = record["variants"][CONTROL]
    step = statistics.median(gshard["serial"])
    waiting = statistics.median(gshard["waiting"]) / step
    busy = _seconds_on_link(gshard, record["mbit"]) / step
    alone = statistics.median(record["unlimited"]["serial"])
    return (
        f"{record['mbit']:.0f} Mbit/s: GShard waits for exchanges in {waiting:.0%} of its step "
        f"(the link is busy in {busy:.0%}), which takes {alone:.2f} s without a limit:"
    )


def table_rows(record: dict) -> list[list[str]]:
    """Every variant's times, its speed against GShard, and what its bytes would allow.

    ``hidden`` is the time that overlap takes off a step, as a share of the time that the
    variant's bytes take on the link.
    """
    rows = []
    for name, times in record["variants"].items():
        gshard = control_of(record, name)
        base = statistics.median(gshard["serial"])
        share = statistics.median(gshard["waiting"]) / base
        limit = 1 / (1 - share + share * times["formula"] / gshard["formula"])
        serial = statistics.median(times["serial"])
        cells = [name, _range(times["serial"]), "", f"{times['bytes'] / 1e6:.2f}"]
        cells += [f"{times['bytes'] / times['formula']:.3f}", f"{limit:.2f}"]
        cells += [f"{base / serial:.2f}", f"{base / serial / limit:.0%}", "", ""]
        if times["overlap"]:
            overlapped = statistics.median(times["overlap"])
            on_link = _seconds_on_link(times, record["mbit"])
            cells[2] = _range(times["overlap"])
            cells[-2:] = [f"{base / overlapped:.2f}", f"{(serial - overlapped) / on_link:.0%}"]
        rows.append(cells)
    return rows


def _seconds_on_link(times: dict, mbit: float) -> float:
    return times["bytes"] / NODES * 8 / mbit / 1e6


def _range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
