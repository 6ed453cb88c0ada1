"""What the exchanges send: counted on the tensors and by the kernel, against the formula."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment
from tests.support.ranks import run_processes
from tests.support.traffic import NUM_RANKS, RANKS_PER_NODE, VARIANTS, count_step, expected_bytes


def count_all():
    return {variant: count_step(variant) for variant in VARIANTS}


def test_tensors_handed_to_the_groups_are_what_the_formula_and_the_metrics_say():
    results = run_processes(count_all, processes=NUM_RANKS)
    for variant in VARIANTS:
        for of_process in results:
            counted, reported = of_process[variant]
            assert tuple(counted[1:]) == expected_bytes(variant)
            # The metrics are of the forward pass; the backward pass sends as much again.
            assert [2 * value for value in reported[1:]] == counted[1:]


@contextmanager
def two_nodes():
    """Two network namespaces with one link between them; gives their names."""
    names = [f"scomoe{os.getpid()}n{node}" for node in range(2)]
    links = [f"sc{os.getpid() % 100000}v{node}" for node in range(2)]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for node, (name, link) in enumerate(zip(names, links, strict=True)):
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "link", "set", link, "name", "eth0")
            _ip("-n", name, "addr", "add", f"10.77.9.{node + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot make a network of two nodes here: {done.stderr.strip()}")


@pytest.mark.skipif(not shutil.which("ip") or os.geteuid(), reason="needs iproute2 and root")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_kernel_counts_between_nodes_what_the_formula_says(tmp_path: Path):
    steps = 4
    with two_nodes() as names:
        for variant in VARIANTS:
            sent = _run_variant(names, tmp_path / variant, variant, steps)
            _, between = expected_bytes(variant)
            per_step = sum(sent) / steps
            assert per_step == pytest.approx(NUM_RANKS * between, rel=0.02), variant


def _run_variant(names: list[str], rendezvous: Path, variant: str, steps: int) -> list[int]:
    processes = []
    for rank in range(NUM_RANKS):
        command = ["ip", "netns", "exec", names[rank // RANKS_PER_NODE], sys.executable, "-m"]
        command += ["tests.support.traffic_between_nodes", str(rank), str(rendezvous), variant]
        processes.append(
            subprocess.Popen(
                [*command, str(steps)],
                cwd=ROOT,
                env={**environment(), "GLOO_SOCKET_IFNAME": "eth0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [int(out) for out, _ in outputs if out.strip()]
