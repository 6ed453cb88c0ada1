"""Differentiable sorting on a GPU equals that of the CPU, in values and gradients."""

import pytest
import torch

from tests.support.chains import relative_error
from tests.support.devices import DEVICE, no_host_sync
from user_dir.fast_moe.clustering.sorting import differentiable_sort

NEAR = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def draw():
    """Two ranks with padding and one without tokens: values, scores, groups, an order."""
    generator = torch.Generator().manual_seed(6)
    num_ranks, num_tokens, dim, num_groups = 3, 200, 32, 8
    x = torch.randn(num_ranks, num_tokens, dim, generator=generator).to(torch.bfloat16)
    scores = torch.randn(num_ranks, num_tokens, num_groups, generator=generator)
    scores = scores.to(torch.bfloat16)
    is_pad = torch.arange(num_tokens) >= torch.tensor([[num_tokens], [77], [0]])
    groups = scores.argmax(dim=-1).masked_fill(is_pad, -1)
    order = groups.masked_fill(is_pad, num_groups).argsort(dim=1, stable=True)
    return x, scores, groups, order


def run(device, dtype):
    x, scores, groups, order = (tensor.to(device) for tensor in draw())
    x, scores = (tensor.to(dtype).requires_grad_() for tensor in (x, scores))
    weight = torch.linspace(-1, 1, x.shape[-1], device=device).to(dtype)
    with no_host_sync():
        y = differentiable_sort(x, scores, group_VT=groups, order_VT=order, temperature=0.5)
        (y * weight * (y.abs() + 1)).sum().backward()
    return [tensor.detach().cpu().double() for tensor in (y, x.grad, scores.grad)]


@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_values_and_gradients_are_those_of_the_cpu(dtype):
    (y, *grads), (expected_y, *expected) = run(DEVICE, dtype), run("cpu", torch.float64)
    assert y.equal(expected_y)  # only moved
    for ours, theirs in zip(grads, expected, strict=True):
        assert theirs.norm() > 0
        assert relative_error(ours, theirs) <= NEAR[dtype]
