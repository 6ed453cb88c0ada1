"""Tests that need one GPU; skipped without. SCOMOE_TEST_DEVICE=cpu tries the tests themselves."""

import pytest
import torch

from tests.support.devices import IS_CUDA
from user_dir.fast_moe.routing import assignment
from user_dir.fast_moe.routing.assignment import approximate_assignment


@pytest.fixture(scope="session", autouse=True)
def _needs_a_gpu():
    if IS_CUDA and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use")


@pytest.fixture(autouse=True)
def _full_float32():
    """No TF32: what is compared with the CPU is the code, not 10 bits of mantissa."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def same_assignment(monkeypatch):
    """The CPU clusters as a GPU does; its own assignment is exact and so another one."""
    monkeypatch.setattr(assignment, "balanced_assignment", approximate_assignment)
