"""Law 1 in the layer: one layout gives the same values and gradients on any number of processes."""

import pytest
import torch

from tests.support.ranks import run_processes
from tests.support.scenarios import MISALIGNED, SCENARIOS, as_dict, run_layer
from tests.support.stack_cases import CASES
from tests.support.stacks import run_stack
from user_dir.fast_moe.report import KNOWN

# All is in double; sums of other orders differ in the last digits. A float32 gate has fewer.
IN_DOUBLE, FLOAT32_GATE = 1e-13, 1e-6


def run_all(scenarios):
    return [as_dict(run_layer(scenario)) for scenario in scenarios]


def assert_same(run, expected, name, *, within=IN_DOUBLE):
    for key, value in expected.items():
        ours = run[key]
        pairs = zip(ours, value, strict=True) if isinstance(value, list) else [(ours, value)]
        for mine, wanted in pairs:
            torch.testing.assert_close(
                mine, wanted, atol=within, rtol=within, msg=lambda m, key=key: f"{name}, {key}: {m}"
            )


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_four_ranks_give_the_same_on_any_number_of_processes(processes):
    results = run_processes(run_all, SCENARIOS, processes=processes)
    for scenario, run in zip(SCENARIOS, results[0], strict=True):
        within = FLOAT32_GATE if scenario.use_fp32 else IN_DOUBLE
        assert_same(run, as_dict(run_layer(scenario)), scenario.name, within=within)


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_blocks_need_not_align_with_processes(processes):
    results = run_processes(run_all, MISALIGNED, processes=processes)
    for scenario, run in zip(MISALIGNED, results[0], strict=True):
        assert_same(run, as_dict(run_layer(scenario)), scenario.name)


def run_all_stacks(cases):
    return [as_dict(run_stack(case)) for case in cases]


@pytest.mark.parametrize("processes", [2, 4])
def test_scomoe_gives_the_same_on_any_number_of_processes(processes):
    results = run_processes(run_all_stacks, CASES, processes=processes)
    for case, run in zip(CASES, results[0], strict=True):
        expected = as_dict(run_stack(case))
        for one in run, expected:
            one["grads"] = list(one["grads"].values())
            for sums in one["sums"]:
                sums[KNOWN.index("assignment_seconds")] = 0  # the clock's
        assert_same(run, expected, case.name)
