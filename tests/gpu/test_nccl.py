"""One process of a real process group gives what it gives without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
import torch.distributed as dist

from tests.gpu.checks import check_never_waits
from tests.support.chains import FIXED_CAPACITY, VARIANTS, assert_near, run_chain
from tests.support.devices import DEVICE, IS_CUDA
from tests.support.ranks import run_processes
from user_dir.fast_moe.exchange.all_to_all import Exchange
from user_dir.fast_moe.exchange.plan import ExchangePlan

BACKEND = "nccl" if IS_CUDA else "gloo"
CASES = {case.name: case for case in VARIANTS if case.training and "fewer experts" not in case.name}


@contextmanager
def exchanges_through_the_group() -> Iterator[mock.Mock]:
    """One process needs no group for its exchanges; here it is told to use it all the same.

    Gives what records the exchanges.
    """
    real_build = ExchangePlan.build

    def build(**arguments) -> ExchangePlan:
        return replace(real_build(**arguments), group=dist.group.WORLD)

    with (
        mock.patch.object(ExchangePlan, "build", build),
        mock.patch.object(Exchange, "post", autospec=True, side_effect=Exchange.post) as post,
    ):
        yield post


def run_all(device: str) -> dict[str, dict]:
    """Every case in a group that it does not need, and through the group."""
    found: dict[str, dict] = {"beside": {}, "through": {}, "exchanges": {}}
    for name, case in CASES.items():
        found["beside"][name] = run_chain(case, device=device)
        with exchanges_through_the_group() as post:
            found["through"][name] = run_chain(case, device=device)
            found["exchanges"][name] = post.call_count
    return found


def test_values_and_gradients_are_those_without_a_group():
    (found,) = run_processes(run_all, str(DEVICE), processes=1, backend=BACKEND)
    for name, case in CASES.items():
        expected = run_chain(case, device=DEVICE)
        assert_near(found["beside"][name], expected, within=1e-5)
        assert_near(found["through"][name], expected, within=1e-5)
        assert found["exchanges"][name] >= 4


def never_waits_in_a_group() -> int:
    with exchanges_through_the_group():
        for case in FIXED_CAPACITY:
            check_never_waits(case, torch.float32)
    return len(FIXED_CAPACITY)


def test_a_group_keeps_the_host_from_waiting():
    assert run_processes(never_waits_in_a_group, processes=1, backend=BACKEND) == [
        len(FIXED_CAPACITY)
    ]
