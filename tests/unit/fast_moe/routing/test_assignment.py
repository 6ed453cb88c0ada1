"""Balanced assignment: exact, total and deterministic, in C++ and in torch; close to it on GPUs."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.assignments import assert_valid, best_balanced, family, sum_of
from user_dir.fast_moe.routing import assignment
from user_dir.fast_moe.routing.assignment import (
    approximate_assignment,
    balanced_assignment,
    exact_assignment_in_torch,
    finite_scores,
)

needs_kernel = pytest.mark.skipif(
    assignment.kernel is None, reason="the C++ kernel is not built: make install"
)
SOLVERS = [
    pytest.param(balanced_assignment, id="kernel", marks=needs_kernel),
    pytest.param(exact_assignment_in_torch, id="torch"),
]


def best_sum(scores_TG: np.ndarray) -> float:
    """The optimum by scipy."""
    return scores_TG[np.arange(len(scores_TG)), best_balanced(scores_TG)].sum()


FAMILIES = ["normal", "integers", "outer product", "ranked", "same rows", "skewed", "constant rows"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("solve", SOLVERS)
def test_the_sum_is_the_largest_possible(solve, name):
    shapes = torch.Generator().manual_seed(1)
    for case in range(40):
        num_tokens = int(torch.randint(0, 70, (), generator=shapes))
        num_groups = int(torch.randint(1, 10, (), generator=shapes))
        scores = family(name, num_tokens, num_groups, seed=case)
        groups = solve(scores)
        assert_valid(groups, num_tokens, num_groups)
        if num_tokens:
            assert sum_of(scores, groups) == pytest.approx(best_sum(scores.numpy()), abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("solve", SOLVERS)
def test_start_prices_from_samples_keep_it_exact(solve, name):
    for num_tokens, num_groups in (1030, 7), (600, 16):
        scores = family(name, num_tokens, num_groups, seed=4)
        groups = solve(scores)
        assert_valid(groups, num_tokens, num_groups)
        assert sum_of(scores, groups) == pytest.approx(best_sum(scores.numpy()), rel=1e-12)


FLOATS = st.one_of(st.floats(-10, 10), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 25), st.integers(1, 7)), elements=FLOATS),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@settings(max_examples=150, deadline=None)
def test_any_scores_are_assigned_exactly(array, dtype):
    scores = torch.from_numpy(array).to(dtype)
    finite = finite_scores(scores.double())
    assert finite.isfinite().all()
    for solve in (
        balanced_assignment,
        lambda s: exact_assignment_in_torch(finite_scores(s.double())),
    ):
        groups = solve(scores)
        assert_valid(groups, *scores.shape)
        assert groups.equal(solve(scores))
        if scores.numel():
            assert sum_of(finite, groups) == pytest.approx(best_sum(finite.numpy()), abs=1e-8)
    assert_valid(approximate_assignment(scores), *scores.shape)


def test_nan_and_infinities_count_as_the_worst_and_the_best():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[1.0, nan], [inf, -inf], [2.0, 3.0]])
    assert finite_scores(scores).tolist() == [[1.0, 1.0], [3.0, 1.0], [2.0, 3.0]]
    assert finite_scores(torch.full((2, 2), nan)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@needs_kernel
def test_adversarial_scores_of_the_largest_size_end():
    # The goal is a second each, which benchmarks measure; a quadratic slip would take minutes.
    start = time.monotonic()
    for name in FAMILIES:
        assert_valid(balanced_assignment(family(name, 8192, 64, seed=2)), 8192, 64)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", ["normal", "outer product", "ranked", "skewed"])
def test_the_fixed_iterations_come_close(name):
    """On the way from a random assignment to the best one."""
    for num_tokens, num_groups in (2048, 8), (1000, 32):
        scores = family(name, num_tokens, num_groups, seed=3)
        groups = approximate_assignment(scores)
        assert_valid(groups, num_tokens, num_groups)
        random = scores.mean(dim=1).sum().item()
        best = sum_of(scores, exact_assignment_in_torch(scores))
        assert (sum_of(scores, groups) - random) / (best - random) > 0.98


def test_without_the_kernel_torch_is_used_and_says_how_to_build_it(monkeypatch, caplog):
    monkeypatch.setattr(assignment, "kernel", None)
    monkeypatch.setattr(assignment, "_said", [])
    scores = family("normal", 40, 4, seed=1)
    for _ in range(2):
        groups = balanced_assignment(scores)
    assert sum_of(scores, groups) == pytest.approx(best_sum(scores.numpy()))
    (record,) = caplog.records
    assert "python setup.py build_ext --inplace" in record.message


def test_several_problems_at_once_are_each_solved_as_alone():
    """Of different sizes, the rows of smaller ones being no tokens; one has none at all."""
    sizes, num_groups = (40, 13, 0, 29), 6
    scores = family("normal", 4 * 40, num_groups, seed=7).view(4, 40, num_groups)
    is_absent = torch.arange(40) >= torch.tensor(sizes).unsqueeze(-1)
    groups = approximate_assignment(scores, is_absent)
    assert (groups[is_absent] == -1).all()
    for size, scores_TG, groups_T in zip(sizes, scores, groups, strict=True):
        assert groups_T[:size].equal(approximate_assignment(scores_TG[:size]))
        assert_valid(groups_T[:size], size, num_groups)
