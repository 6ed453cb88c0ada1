"""Two nodes on one machine: network namespaces with one link between them, which can be slow."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NODES, RANKS_PER_NODE = 2, 2
NUM_RANKS = NODES * RANKS_PER_NODE
# What left a node, as its kernel counts it.
COUNTER = Path("/sys/class/net/eth0/statistics/tx_bytes")


@contextmanager
def two_nodes() -> Iterator[list[str]]:
    """Make two namespaces whose eth0 are linked; gives their names. SIGTERM removes them as well.

    Raises:
        CalledProcessError: not root, or no namespaces here; ``stderr`` says which.
        FileNotFoundError: no iproute2.
    """
    names = [f"scomoe{os.getpid()}n{node}" for node in range(NODES)]
    links = [f"sc{os.getpid() % 100000}v{node}" for node in range(NODES)]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
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
            _call(*_within(name), "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        signal.signal(signal.SIGTERM, before)


def shape(names: Sequence[str], mbit: float) -> None:
    """Let the link pass that many Mbit/s in each direction."""
    limit = ("tbf", "rate", f"{mbit * 1000:.0f}kbit", "burst", "128kb", "latency", "400ms")
    for name in names:
        _call(*_within(name), "tc", "qdisc", "replace", "dev", "eth0", "root", *limit)


def start_ranks(
    names: Sequence[str], module: str, rendezvous: Path, *arguments: str
) -> list[subprocess.Popen]:
    """Start `python -m module RANK RENDEZVOUS arguments…` for every rank, one thread each."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(NUM_RANKS):
        command = [*_within(names[rank // RANKS_PER_NODE]), sys.executable, "-m", module]
        processes.append(
            subprocess.Popen(
                [*command, str(rank), str(rendezvous), *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def join_ranks() -> tuple[int, dict[str, Any]]:
    """In a rank: meet the others; its number, and the arguments, which were given as JSON."""
    import torch
    import torch.distributed as dist

    rank, rendezvous, arguments = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=NUM_RANKS
    )
    return rank, arguments


def read_ranks(processes: Sequence[subprocess.Popen], *, seconds: float) -> list[str]:
    """What every rank printed; ends all of them.

    Raises:
        RuntimeError: one failed; the message is the end of what it wrote to stderr.
        TimeoutExpired: they took longer.
    """
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, (_, errors)) in enumerate(zip(processes, outputs, strict=True)):
        if process.returncode:
            raise RuntimeError(f"rank {rank} failed with {process.returncode}: {errors[-3000:]}")
    return [printed for printed, _ in outputs]


def _within(name: str) -> tuple[str, ...]:
    return "ip", "netns", "exec", name


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
