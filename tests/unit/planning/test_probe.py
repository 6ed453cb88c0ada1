"""What a probe measures on real processes."""

import pytest
import torch

from tests.support.ranks import run_processes
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.planning.machine import parse_machine, write_machine
from user_dir.planning.probe import measure_machine


def probe(layout: Layout):
    return measure_machine(
        layout,
        device=torch.device("cpu"),
        precision="fp32",
        dim=32,
        hidden=64,
        exchange_bytes=2**16,
    )


def probe_one_node() -> str:
    return write_machine(probe(Layout(1, 2)))


def probe_two_nodes() -> str:
    return write_machine(probe(Layout(2, 1)))


@pytest.mark.parametrize(("work", "assumes"), [(probe_one_node, True), (probe_two_nodes, False)])
def test_processes_agree_on_what_was_measured(work, assumes):
    texts = run_processes(work, processes=2)
    assert texts[0] == texts[1]
    one = parse_machine(texts[0], "measured")
    between = "between nodes: as in a node, for there is one; --gbit-between says it"
    assert (between in one.assumed) is assumes
    assert one.gbit_between > 0 and one.gbit_within > 0 and one.memory_gbytes_per_s > 0
    if not assumes:  # messages were sent, and took their time
        assert one.latency_between_us > 0 and one.nodes == 2 and one.ranks_per_node == 1


def test_a_single_process_measures_itself():
    one = probe(Layout(1, 1))
    assert one.flops("fp32") > 1e6 and one.memory > 2**27
    assert len(one.assumed) == 2
