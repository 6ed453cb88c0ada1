"""Balanced assignment on a GPU: always valid, close to the best, and it never leaves the device."""

import pytest
import torch

from tests.support.assignments import assert_valid, family, sum_of
from tests.support.devices import DEVICE, no_host_sync
from user_dir.fast_moe.routing.assignment import approximate_assignment, balanced_assignment

FAMILIES = ["normal", "integers", "outer product", "ranked", "same rows", "skewed", "constant rows"]
SIZES = [(0, 4), (1, 1), (3, 8), (64, 8), (203, 7), (8192, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", [*FAMILIES, "huge"])
def test_any_scores_are_assigned_evenly_without_waiting(name, size):
    scores = family(name, *size, seed=2).to(DEVICE)
    with no_host_sync():
        groups = approximate_assignment(scores)
    assert groups.device == scores.device
    assert_valid(groups.cpu(), *size)


def test_scores_that_are_no_numbers_are_assigned_too():
    scores = family("normal", 100, 6, seed=3)
    scores[::3, 1], scores[5:9], scores[20:40, 2] = float("nan"), float("inf"), -float("inf")
    with no_host_sync():
        groups = approximate_assignment(scores.to(DEVICE))
    assert_valid(groups.cpu(), 100, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_comes_close_to_the_best_and_repeats(dtype):
    scores = family("normal", 400, 8, seed=4).to(dtype)
    groups = approximate_assignment(scores.to(DEVICE))
    assert groups.equal(approximate_assignment(scores.to(DEVICE)))
    scores = scores.double()
    random = scores.mean(dim=1).sum().item()
    best = sum_of(scores, balanced_assignment(scores))
    assert (sum_of(scores, groups.cpu()) - random) / (best - random) > 0.97
