"""Times a step of mixtures over a slow network: 2 nodes x 2 ranks, made of network namespaces.

    python -m benchmarks.network        (root, iproute2; about six minutes)

The link between the nodes is shaped so that GShard spends about two thirds, then four fifths, of
its step in exchange: the time in which a rank waits for rows, measured. A first bandwidth follows
from a step without a limit, and is corrected by a few steps with it. A step is the forward and
backward pass of six mixtures, without attention and optimizer. Variants take turns in one run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.statistics import LayerSums
from user_dir.fast_moe.tokens import rank_tokens
from user_dir.fast_moe.topology import Layout, Topology
from user_dir.fast_moe.transformer_layers import ClusteredMoeStack, MoeParts, StackConfig
from user_dir.fast_moe.wire import Posted
from user_dir.text.tables import format_markdown

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/network.json"
COUNTER = Path("/sys/class/net/eth0/statistics/tx_bytes")

NODES, RANKS_PER_NODE, NUM_EXPERTS, NUM_LAYERS = 2, 2, 8, 6
NUM_RANKS = NODES * RANKS_PER_NODE
SENTENCES, LENGTH, DIM, HIDDEN = 8, 64, 256, 1024
# GShard's share of the step in exchange.
SHARES = (2 / 3, 4 / 5)

SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
# By name: options, and the mixtures of the stack; as in the model the first one is not SCoMoE's.
STACKS = {
    "gshard": ({}, ("plain",) * NUM_LAYERS),
    "seq": (SEQ, ("plain", *("seq",) * (NUM_LAYERS - 1))),
    "feat": (FEAT, ("plain", *("feat",) * (NUM_LAYERS - 1))),
    "seq+cluster": (SEQ, ("cluster", *("seq",) * (NUM_LAYERS - 1))),
    "feat+cluster": (FEAT, ("cluster", *("feat",) * (NUM_LAYERS - 1))),
    "seq, all layers": (SEQ, ("seq",) * NUM_LAYERS),
}


def main() -> None:
    """Measure without a limit, derive the bandwidths, measure with them, print a table."""
    args = _parse()
    if args.rank is not None:
        _work(args.rank, args.rendezvous, args.repeat, args.only)
        return
    if os.geteuid():
        sys.exit("benchmarks.network makes network namespaces and needs root")
    with _two_nodes() as names:
        unlimited = _run(names, args.repeat)
        limited = []
        for share in SHARES:
            mbit = _find_bandwidth(names, unlimited["gshard"], share)
            _shape(names, mbit)
            limited.append({"mbit": mbit, "variants": _run(names, args.repeat)})
    result = {"hardware": _hardware(), "unlimited": unlimited, "limited": limited}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    for measured in limited:
        print(_table(unlimited, measured), end="\n\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each variant (5)")
    parser.add_argument("--output", type=Path, default=RESULT, help=f"JSON ({RESULT.name})")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rendezvous", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=STACKS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _hardware() -> dict:
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


# --- the network ----------------------------------------------------------------------------------


@contextmanager
def _two_nodes() -> Iterator[list[str]]:
    """Two namespaces with one link between their eth0; gives their names."""
    names = [f"scomoebench{os.getpid()}n{node}" for node in range(NODES)]
    links = [f"sb{os.getpid() % 100000}v{node}" for node in range(NODES)]
    try:
        for name in names:
            _call("ip", "netns", "add", name)
        _call("ip", "link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for node, (name, link) in enumerate(zip(names, links, strict=True)):
            _call("ip", "link", "set", link, "netns", name)
            inside = ("ip", "-n", name)
            _call(*inside, "link", "set", link, "name", "eth0")
            _call(*inside, "addr", "add", f"10.77.8.{node + 1}/24", "dev", "eth0")
            _call(*inside, "link", "set", "eth0", "up")
            _call(*inside, "link", "set", "lo", "up")
            # Steadier over a shaped link than the default.
            reno = "net.ipv4.tcp_congestion_control=reno"
            _call("ip", "netns", "exec", name, "sysctl", "-qw", reno)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _shape(names: list[str], mbit: float) -> None:
    limit = ("tbf", "rate", f"{mbit * 1000:.0f}kbit", "burst", "128kb", "latency", "400ms")
    for name in names:
        _call("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", "eth0", "root", *limit)


def _find_bandwidth(names: list[str], gshard: dict, share: float) -> float:
    """Mbit/s at which GShard waits for this share of its step."""
    computing = _median(gshard["serial"]) - _median(gshard["waiting"])
    mbit = 0.0
    for _ in range(3):
        waiting = computing * share / (1 - share)
        # At first as if it waited for the link alone; then by how long it did wait.
        mbit = (
            mbit * _median(gshard["waiting"]) / waiting
            if mbit
            else gshard["bytes"] / NODES * 8 / waiting / 1e6
        )
        _shape(names, mbit)
        gshard = _run(names, repeat=3, only="gshard")["gshard"]
        computing = _median(gshard["serial"]) - _median(gshard["waiting"])
    return mbit


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


def _run(names: list[str], repeat: int, only: str | None = None) -> dict:
    """Start the four ranks and read what the first of them reports."""
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(NUM_RANKS):
            command = ["ip", "netns", "exec", names[rank // RANKS_PER_NODE], sys.executable]
            command += ["-m", "benchmarks.network", "--rank", str(rank)]
            command += ["--rendezvous", f"{folder}/rendezvous", "--repeat", str(repeat)]
            command += ["--only", only] if only else []
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
            pipe = subprocess.PIPE if rank == 0 else None
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, text=True)
            )
        try:
            output, _ = processes[0].communicate(timeout=1800)
            if any(process.wait(60) for process in processes):
                sys.exit("a rank failed; see above")
        finally:
            for process in processes:
                process.kill()
    return json.loads(output)


# --- a rank ---------------------------------------------------------------------------------------


def _work(rank: int, rendezvous: str, repeat: int, only: str | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=NUM_RANKS
    )
    topology = Topology(Layout(NODES, RANKS_PER_NODE), num_experts=NUM_EXPERTS)
    waiting = _Waiting()
    names = [only] if only else list(STACKS)
    steps = {name: _Step(topology, *STACKS[name]) for name in names}
    results = {name: {"serial": [], "overlap": [], "waiting": []} for name in names}
    for repetition in range(repeat + 1):
        for name, step in steps.items():
            for schedule in "serial", "overlap":
                if name == "gshard" and schedule == "overlap":
                    continue  # it has one reach
                waiting.seconds = 0.0
                seconds, sent = step.run(schedule)
                waited = _mean_over_ranks(waiting.seconds)
                if repetition:  # the first one makes connections
                    if schedule == "serial":
                        results[name]["waiting"].append(waited)
                    results[name][schedule].append(seconds)
                    results[name]["bytes"] = sent
    for name, step in steps.items():
        results[name]["formula"] = step.expected_bytes()
    if rank == 0:
        print(json.dumps(results))
    dist.barrier()


class _Waiting:
    """Adds up how long this process waits for rows of exchanges."""

    def __init__(self) -> None:
        self.seconds = 0.0
        wait = Posted.wait

        def timed(posted: Posted) -> torch.Tensor:
            start = time.perf_counter()
            received = wait(posted)
            self.seconds += time.perf_counter() - start
            return received

        Posted.wait = timed


def _mean_over_ranks(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / NUM_RANKS


class _Step:
    """A forward and backward pass of a stack of mixtures."""

    def __init__(self, topology: Topology, options: dict, kinds: tuple[str, ...]):
        config = MoeConfig.from_args(
            Namespace(
                moe_freq=2,
                moe_expert_count=NUM_EXPERTS,
                reorder_layers=True,
                token_cluster="cluster" in kinds,
                **options,
            )
        )
        parts = MoeParts(config=config, topology=topology)
        widths = StackConfig("encoder", DIM, HIDDEN, "relu", 0.0, 0.0, True)
        recomputation = SimpleNamespace(checkpoint_activations=False, offload_activations=False)
        torch.manual_seed(1)
        self.stack = ClusteredMoeStack(parts, widths, kinds, recomputation)
        self.tokens = rank_tokens(
            torch.zeros(SENTENCES, LENGTH, dtype=torch.bool),
            torch.zeros(SENTENCES, dtype=torch.int64),
            num_hosted=topology.num_hosted,
            shares=parts.seq_shares,
        )
        generator = torch.Generator().manual_seed(topology.process_index)
        self.x_SBD = torch.randn(LENGTH, SENTENCES, DIM, generator=generator)
        self.bytes_between = 0.0

    def run(self, schedule: str) -> tuple[float, int]:
        """Seconds of one step, and the bytes that left the nodes by their interfaces."""
        for module in self.stack.modules():
            if isinstance(module, EfficientMoeLayer):
                module.overlap = schedule == "overlap"
        self.stack.zero_grad()
        dist.barrier()
        bytes_before = int(COUNTER.read_text())
        dist.barrier()
        start = time.perf_counter()
        y_SBD, reports = self.stack(self.x_SBD.clone().requires_grad_(), self.tokens)
        y_SBD.square().mean().backward()
        dist.barrier()
        seconds = time.perf_counter() - start
        self.bytes_between = sum(LayerSums.of(report.sums).bytes_between for report in reports)
        first_of_node = dist.get_rank() % RANKS_PER_NODE == 0
        sent = torch.tensor((int(COUNTER.read_text()) - bytes_before) * first_of_node)
        dist.all_reduce(sent)
        return seconds, int(sent)

    def expected_bytes(self) -> float:
        """Of all nodes, by the metrics of the forward pass; the backward pass sends as much."""
        total = torch.tensor(2 * self.bytes_between, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)


# --- the table ------------------------------------------------------------------------------------


def _table(unlimited: dict, measured: dict) -> str:
    """Speed against GShard, and the limit that the bytes set: 1 / (1 - s + s · bytes' share).

    s is the share of GShard's step in which it waits for exchanges. Where the link is busy for
    longer than that, processes of a node compute while others send, and a serial schedule can be
    ahead of this limit too.
    """
    variants = measured["variants"]
    gshard = variants["gshard"]
    base = _median(gshard["serial"])
    share = _median(gshard["waiting"]) / base
    busy = _seconds_on_link(gshard, measured["mbit"]) / base
    header = ("variant", "serial s", "overlap s", "MB", "of formula", "limit", "serial", "overlap")
    header = (*header, "hidden")
    rows = []
    for name, of_variant in variants.items():
        limit = 1 / (1 - share + share * of_variant["formula"] / gshard["formula"])
        serial = _median(of_variant["serial"])
        cells = [name, _range(of_variant["serial"]), "", f"{of_variant['bytes'] / 1e6:.2f}"]
        cells += [f"{of_variant['bytes'] / of_variant['formula']:.3f}", f"{limit:.2f}"]
        cells += [f"{base / serial:.2f}", "", ""]
        if of_variant["overlap"]:
            overlapped = _median(of_variant["overlap"])
            exchange = _seconds_on_link(of_variant, measured["mbit"])
            cells[2], cells[7] = _range(of_variant["overlap"]), f"{base / overlapped:.2f}"
            cells[8] = f"{(serial - overlapped) / exchange:.0%}"
        rows.append(cells)
    alone = _median(unlimited["gshard"]["serial"])
    title = (
        f"{measured['mbit']:.0f} Mbit/s: GShard waits for exchanges in {share:.0%} of its step "
        f"(the link is busy in {busy:.0%}), which takes {alone:.2f} s without a limit:"
    )
    return f"{title}\n\n{format_markdown(header, rows)}"


def _seconds_on_link(of_variant: dict, mbit: float) -> float:
    return of_variant["bytes"] / NODES * 8 / mbit / 1e6


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def _range(seconds: list[float]) -> str:
    return f"{_median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
