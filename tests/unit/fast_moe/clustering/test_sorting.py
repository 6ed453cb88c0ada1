"""Differentiable sorting equals the T x T formula, in values and gradients, without its memory."""

import resource
import sys

import pytest
import torch
from torch import Tensor

from tests.support.commands import ROOT, run
from user_dir.fast_moe.clustering.sorting import differentiable_sort


def by_matrix(
    x_TD: Tensor, scores_TG: Tensor, group_T: Tensor, order_T: Tensor, temperature: float
):
    """P · x of one rank's real tokens, P = hard + Q − stop(Q)."""
    num_tokens = len(x_TD)
    hard = torch.nn.functional.one_hot(order_T, num_tokens).to(x_TD)
    rows = []
    for t in order_T.tolist():
        members = (group_T == group_T[t]).sum()
        rows.append((scores_TG[:, group_T[t]] / temperature).softmax(0) / members)
    soft = torch.stack(rows)
    return (hard + soft - soft.detach()) @ x_TD


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_values_and_gradients_are_those_of_the_formula(temperature):
    torch.manual_seed(2)
    num_real = [9, 1, 0, 12]
    V, T, D, G = 4, 12, 5, 3
    x = torch.randn(V, T, D, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(V, T, G, dtype=torch.float64, requires_grad=True)
    group = torch.randint(0, G, (V, T))
    for v, n in enumerate(num_real):
        group[v, n:] = -1
    order = torch.where(group < 0, G, group).argsort(dim=1, stable=True)
    weight = torch.randn(V, T, D, dtype=torch.float64)
    is_real = torch.arange(T) < torch.tensor(num_real).unsqueeze(1)

    y = differentiable_sort(x, scores, group_VT=group, order_VT=order, temperature=temperature)
    (y * weight)[is_real].sum().backward()

    x2 = x.detach().clone().requires_grad_()
    scores2 = scores.detach().clone().requires_grad_()
    loss = x2.sum() * 0 + scores2.sum() * 0
    for v, n in enumerate(num_real):
        if n:
            rows = by_matrix(x2[v, :n], scores2[v, :n], group[v, :n], order[v, :n], temperature)
            torch.testing.assert_close(y[v, :n], rows)
            loss = loss + (rows * weight[v, :n]).sum()
    loss.backward()
    torch.testing.assert_close(x.grad, x2.grad, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(scores.grad, scores2.grad, atol=1e-12, rtol=1e-10)
    assert scores.grad.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_comes_close(dtype):
    torch.manual_seed(3)
    x, scores = torch.randn(1, 40, 8), torch.randn(1, 40, 4)
    group = scores.argmax(-1)
    order = group.argsort(dim=1, stable=True)
    grads = []
    for kind in (torch.float64, dtype):
        leaf = scores.to(dtype).to(kind).requires_grad_()
        values = x.to(dtype).to(kind).requires_grad_()
        y = differentiable_sort(values, leaf, group_VT=group, order_VT=order, temperature=0.5)
        (y.double() * torch.arange(8)).sum().backward()
        assert leaf.grad.dtype == kind
        grads.append(leaf.grad.double())
    torch.testing.assert_close(grads[1], grads[0], atol=0.02, rtol=0.02)


_MEASURE = """
import resource, sys, torch
from user_dir.fast_moe.clustering.sorting import differentiable_sort
T, D, G = int(sys.argv[1]), 64, 8
x = torch.randn(1, T, D, requires_grad=True)
scores = torch.randn(1, T, G, requires_grad=True)
group = scores.detach().argmax(-1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = differentiable_sort(x, scores, group_VT=group, order_VT=group.argsort(dim=1), temperature=0.5)
y.sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="needs getrusage")
def test_memory_at_8192_tokens_is_far_below_a_matrix_of_tokens_by_tokens():
    grown = int(run([sys.executable, "-c", _MEASURE, "8192"]).stdout)  # kilobytes
    # One 8192 x 8192 matrix in float32 is 262144 kB; the tokens themselves are 2048 kB.
    assert grown < 60_000, ROOT
