"""Law 3 for SCoMoE: stacks equal loops over nodes, ranks, tokens and experts, with gradients."""

import pytest
import torch

from tests.support.stack_cases import CASES, inputs_of
from tests.support.stack_oracle import StackOracle
from tests.support.stacks import build_stack, run_stack
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import LayerSums


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stack_equals_loops(case):
    topology = Topology(Layout(*case.layout), num_experts=case.config.num_experts)
    stack = build_stack(case, topology)
    weights = {
        name: tensor.detach().clone().requires_grad_() for name, tensor in stack.named_parameters()
    }
    inputs = [x.requires_grad_() for x in inputs_of(case)]
    expected = StackOracle(case, {**dict(stack.named_buffers()), **weights})(inputs)
    loss = sum(
        (y * w).sum() for y, w in zip(expected.outputs, inputs_of(case, seed=12), strict=True)
    )
    loss = loss + 0.3 * sum(sum(losses) for losses in expected.balance_losses)
    loss.backward()

    if case.drops:
        assert expected.num_dropped > 0.05 * expected.num_choices
    else:
        assert expected.num_dropped == 0
    if case.num_layers > 2:
        assert {reach for reach, n in expected.reach_counts.items() if n} >= set(case.reaches)

    run = run_stack(case)
    close = {"atol": 1e-10, "rtol": 1e-8}
    for mine, wanted in zip(run.outputs, expected.outputs, strict=True):
        torch.testing.assert_close(mine, wanted.detach(), **close)
    for mine, x in zip(run.input_grads, inputs, strict=True):
        wanted = torch.zeros_like(x) if x.grad is None else x.grad  # a rank without tokens
        torch.testing.assert_close(mine, wanted, **close)
    for losses_R, wanted in zip(run.balance_losses, expected.balance_losses, strict=True):
        torch.testing.assert_close(losses_R, torch.stack(wanted).detach(), **close)
    assert run.grads.keys() == weights.keys()
    for name, tensor in weights.items():
        wanted = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(
            run.grads[name], wanted, **close, msg=lambda m, n=name: f"{n} {m}"
        )
    mixtures = [
        LayerSums.of(sums.unsqueeze(0))
        for sums, kind in zip(run.sums, case.kinds, strict=True)
        if kind is not LayerKind.CLUSTER
    ]
    assert sum(s["first_dropped"] + s["second_dropped"] for s in mixtures) == expected.num_dropped
    for reach in Reach:
        counted = sum(s[f"tokens_{reach.value}"] for s in mixtures)
        assert counted == expected.reach_counts[reach.value]
