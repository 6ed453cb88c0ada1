"""What the exchanges send: counted on the tensors and by the kernel, against the formula."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.two_nodes import read_ranks, start_ranks, two_nodes
from tests.support.commands import run
from tests.support.ranks import run_processes
from tests.support.traffic import (
    HIERARCHICAL,
    NUM_RANKS,
    VARIANTS,
    count_step,
    expected_bytes,
    hierarchical_bytes,
)

needs_network = pytest.mark.skipif(
    not shutil.which("ip") or bool(os.geteuid()), reason="needs iproute2 and root"
)


def count_all():
    return {variant: count_step(variant) for variant in (*VARIANTS, *HIERARCHICAL)}


def test_tensors_handed_to_the_groups_are_what_the_formula_and_the_metrics_say():
    results = run_processes(count_all, processes=NUM_RANKS)
    for variant in VARIANTS:
        for of_process in results:
            counted, reported = of_process[variant]
            assert tuple(counted[1:]) == expected_bytes(variant)
            # The metrics are of the forward pass; the backward pass sends as much again.
            assert [2 * value for value in reported[1:]] == counted[1:]
    for variant in HIERARCHICAL:
        expected = [hierarchical_bytes(variant, rank) for rank in range(NUM_RANKS)]
        assert [of_process[variant][1][1:] for of_process in results] == [f for f, _ in expected]
        # What a rank answers is in the sums of the one that asked.
        counted = [sum(of_process[variant][0][d] for of_process in results) for d in (1, 2)]
        assert counted == [sum(f[d] + b[d] for f, b in expected) for d in (0, 1)]


@pytest.fixture
def nodes():
    """The names of two network namespaces with a link between them."""
    with ExitStack() as stack:
        try:
            names = stack.enter_context(two_nodes())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot make a network of two nodes here: {error.stderr.strip()}")
        yield names


@needs_network
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_kernel_counts_between_nodes_what_the_formula_says(nodes, tmp_path: Path):
    module, steps = "tests.support.traffic_between_nodes", 4
    for variant in VARIANTS:
        ranks = start_ranks(nodes, module, tmp_path / variant, variant, str(steps))
        sent = [int(printed) for printed in read_ranks(ranks, seconds=180) if printed.strip()]
        _, between = expected_bytes(variant)
        assert sum(sent) / steps == pytest.approx(NUM_RANKS * between, rel=0.02), variant


@needs_network
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_run_between_two_nodes_prints_its_tables(tmp_path):
    command = [sys.executable, "-m", "benchmarks.network", "--small", "--repeat", "2"]
    done = run([*command, "--results", tmp_path])
    assert done.stdout.count("| seq, all layers ") == 3  # two bandwidths, then by counting
    records = json.loads((tmp_path / "network.small.json").read_text())["records"]
    for record in records:
        for name, times in record["variants"].items():
            assert times["formula"] > 0, name
            assert len(times["serial"]) == len(times["waiting"]) == 2, name
