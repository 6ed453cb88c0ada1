"""What `scomoe-plan` says against what is measured: times over a shaped link, and peak memory.

    python -m benchmarks.planning                   (times: root, iproute2; all: a few minutes)
    python -m benchmarks.planning --only memory     (any machine)
    python -m benchmarks.planning --only recorded   (at once)

Times: 2 nodes x 2 ranks of network namespaces, as in benchmarks.network: a step is the forward and
backward pass of a dense layer and six mixtures. At each of two bandwidths the ranks probe the
machine as `scomoe-plan --probe` does, then take steps; the plan is made from the probe alone. Four
ranks share two cores, so leave these to it.

Recorded: the same steps as benchmarks.network measured them. One number is fitted, the rate of the
arithmetic, to GShard's step without a limit; memory is taken for 4 GB/s a rank, messages are free.

Memory: the most that tensors take in an update of fairseq's own trainer with moe_adam, in one
process, as torch's allocators count it, weights and the optimizer's state included.
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

from benchmarks.network_stacks import EXPERTS_PER_RANK, STACKS, StepSize, options_of
from benchmarks.planning_memory import MEMORY_HEADER, measure_memory, memory_rows
from benchmarks.timing import RESULTS, parse_arguments, write_results
from benchmarks.trainers import require_fairseq, silence
from benchmarks.two_nodes import NODES, NUM_RANKS, RANKS_PER_NODE, read_ranks, shape, start_ranks
from benchmarks.two_nodes import two_nodes as make_two_nodes
from user_dir.cli.plan import get_parser
from user_dir.fast_moe.config import LayerKind
from user_dir.planning.machine import Machine, parse_machine, read_machine
from user_dir.planning.parameters import count_parameters
from user_dir.planning.setting import Setting
from user_dir.planning.times import step_time
from user_dir.text.scoring.tables import format_markdown

MBITS = (220, 125)
SIZE = StepSize(sentences=8, length=64, dim=512, hidden=1024)
SMALL = StepSize(sentences=2, length=8, dim=32, hidden=32)
NAMES = ("gshard", "seq", "feat")
# A rank of the recorded steps, but for its rate and its link.
RECORDED = read_machine("shaped-link").changed({"latency_within_us": 0, "latency_between_us": 0})
TIME_HEADER = ("Mbit/s", "exchange", "schedule", "planned s", "measured s", "planned/measured")


def main() -> None:
    """Measure, print tables, write JSON."""
    args = parse_arguments(__doc__, _add_options)
    if args.device.type != "cpu" or args.full:
        sys.exit("benchmarks.planning runs on a CPU and has no larger grid; leave both out")
    require_fairseq("benchmarks.planning")
    silence()
    records: list[dict] = []
    if "time" in args.only:
        _refuse_times()
        of_time = _measure_times(args)
        print(format_markdown(TIME_HEADER, time_rows(of_time)), end="\n\n")
        records += of_time
    if "recorded" in args.only:
        of_record = plan_recorded()
        print(format_markdown(TIME_HEADER, time_rows(of_record)), end="\n\n")
        records += of_record
    if "memory" in args.only:
        of_memory = measure_memory(args)
        print(format_markdown(MEMORY_HEADER, memory_rows(of_memory)), end="\n\n")
        records += of_memory
    records += _others(args)
    print(f"written to {write_results('planning', records, args)}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parts = ("time", "recorded", "memory")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts, help="some of them")


def _others(args: argparse.Namespace) -> list[dict]:
    """What was written of the parts that are left out now."""
    path = args.results / "planning.json"
    if args.small or not path.exists():
        return []
    return [one for one in json.loads(path.read_text())["records"] if one["what"] not in args.only]


# --- times ----------------------------------------------------------------------------------------


def _refuse_times() -> None:
    if os.geteuid() or not all(map(shutil.which, ("ip", "tc"))):
        sys.exit(
            "benchmarks.planning needs root, ip and tc (iproute2); --only recorded memory does not"
        )


def _measure_times(args: argparse.Namespace) -> list[dict]:
    size = SMALL if args.small else SIZE
    records = []
    try:
        with make_two_nodes() as names:
            for mbit in MBITS:
                shape(names, mbit)
                found = _run_ranks(names, size, args)
                machine = parse_machine(found["machine"], "the probe")
                for name, seconds in found["seconds"].items():
                    for schedule in "serial", "overlap":
                        if seconds[schedule]:
                            planned = planned_seconds(name, size, machine, schedule)
                            records.append(
                                {
                                    "what": "time",
                                    "mbit": mbit,
                                    "exchange": name,
                                    "schedule": schedule,
                                    "planned": planned,
                                    "measured": seconds[schedule],
                                    "machine": asdict(machine),
                                    "load": os.getloadavg()[0],
                                }
                            )
    except subprocess.CalledProcessError as error:
        sys.exit(f"benchmarks.planning cannot make two nodes here: {error.stderr.strip()}")
    return records


def _run_ranks(names: Sequence[str], size: StepSize, args: argparse.Namespace) -> dict:
    """What the first of the ranks reports."""
    arguments = {
        "size": asdict(size),
        "repeat": args.repeat,
        "names": NAMES,
        "exchange_bytes": 2**16 if args.small else 2**20,
    }
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        ranks = start_ranks(names, "benchmarks.planning_rank", rendezvous, json.dumps(arguments))
        return json.loads(read_ranks(ranks, seconds=1800)[0])


def plan_recorded() -> list[dict]:
    """A record for every step of benchmarks.network that STACKS names."""
    found = json.loads((RESULTS / "network.json").read_text(encoding="utf-8"))["records"]
    records = []
    for one in found:
        size, unlimited = StepSize(**one["size"]), one["unlimited"]
        computing = statistics.median(unlimited["serial"]) - statistics.median(unlimited["waiting"])
        machine = _fitted(RECORDED, size, computing)
        machine = machine.changed({"gbit_between": one["mbit"] / 1000})
        for name, seconds in one["variants"].items():
            for schedule in "serial", "overlap":
                if name in STACKS and _is_in_a_model(name) and seconds[schedule]:
                    records.append(
                        {
                            "what": "recorded",
                            "mbit": round(one["mbit"]),
                            "exchange": name,
                            "schedule": schedule,
                            "planned": planned_seconds(name, size, machine, schedule),
                            "measured": seconds[schedule],
                        }
                    )
    return records


def _is_in_a_model(name: str) -> bool:
    """Whether a model has the stack: its first mixture is not SCoMoE's."""
    return STACKS[name][1][0] in (LayerKind.PLAIN, LayerKind.CLUSTER)


def _fitted(machine: Machine, size: StepSize, computing: float) -> Machine:
    """The machine with the rate at which GShard computes for so long."""

    def with_rate(tflops: float) -> Machine:
        return machine.changed({"tflops": {"fp32": tflops}, "gbit_between": 1e9})

    def seconds(tflops: float) -> float:
        return planned_seconds("gshard", size, with_rate(tflops), "serial", exchange=False)

    # What passes the memory takes the same time at every rate.
    beside = seconds(1e9)
    return with_rate((seconds(1.0) - beside) / (computing - beside))


def planned_seconds(
    name: str, size: StepSize, machine: Machine, schedule: str, *, exchange: bool = True
) -> float:
    """Of a dense layer and the mixtures of a stack: an encoder's tail without its attention."""
    _, kinds = STACKS[name]
    args = get_parser().parse_args(["--arch", "scomoe", "--dropout", "0", "--reorder-layers"])
    values = {
        **options_of(name, size),
        "token_cluster": LayerKind.CLUSTER in kinds,
        "encoder_moe_freq": 2,
        "moe_expert_count": EXPERTS_PER_RANK * NUM_RANKS,
        "encoder_embed_dim": size.dim,
        "encoder_ffn_embed_dim": size.hidden,
        "encoder_layers": 2 * len(kinds),
        "decoder_layers": 1,
        "moe_nodes": NODES,
        "moe_ranks_per_node": RANKS_PER_NODE,
        "tokens": size.sentences * size.length,
        "sentence_length": size.length,
    }
    for option, value in values.items():
        setattr(args, option, value)
    setting = Setting.of(args, device="cpu")
    assert setting.encoder.order.tail == kinds
    step = step_time(setting, machine, count_parameters(setting), overlap=schedule == "overlap")
    # Half of the encoder's layers, its tail and the decoder's only one have dense layers.
    computing = step.feed_forward / (len(kinds) + 2) + step.gates + step.experts
    return computing + step.exchange if exchange else computing


def time_rows(records: Sequence[dict]) -> list[list[str]]:
    """Planned and measured seconds of steps."""
    rows = []
    for one in records:
        measured = statistics.median(one["measured"])
        spread = f"{measured:.2f} ({min(one['measured']):.2f} to {max(one['measured']):.2f})"
        cells = [f"{one['mbit']}", one["exchange"], one["schedule"], f"{one['planned']:.2f}"]
        rows.append([*cells, spread, f"{one['planned'] / measured:.2f}"])
    return rows


if __name__ == "__main__":
    main()
