"""The overlapped schedule equals the serial one, and its order is the same on every process."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import run_processes
from tests.support.stack_cases import CASES
from tests.support.stacks import run_stack
from user_dir.fast_moe.exchange.all_to_all import Exchange

NAMES = (
    "seq",
    "seq, dropless",
    "seq, ragged",
    "seq, recomputed",
    "seq, noise",
    "seq, all within nodes",
    "feat",
    "feat, dropless",
    "feat, ragged",
    "cluster, seq",
    "hierarchical, seq, ragged",
    "hierarchical, seq, recomputed",
    "hierarchical, feat, masks",
)


def case_of(name, **options):
    case = next(case for case in CASES if case.name == name)
    return replace(case, options={**case.options, **options})


def run_schedules(names):
    return {
        (name, schedule): vars(run_stack(case_of(name, moe_exchange_schedule=schedule)))
        for name in names
        for schedule in ("overlap", "serial")
    }


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_schedules_give_the_same_values_and_gradients(processes):
    for of_process in run_processes(run_schedules, NAMES, processes=processes):
        for name in NAMES:
            overlapped, serial = of_process[name, "overlap"], of_process[name, "serial"]
            assert overlapped.keys() == serial.keys()
            for what, values in overlapped.items():
                if what != "sums":  # they hold how long an assignment took
                    torch.testing.assert_close(values, serial[what], atol=1e-11, rtol=1e-9)


# Tokens leave, outputs leave; then gradients of the outputs, gradients of the tokens.
ORDERS = {"overlap": [4, 2, 2, 4, 4, 2, 4, 2], "serial": [2, 4, 2, 4, 4, 2, 4, 2]}


def record_posts(name, schedules):
    """The processes of each exchange's group, in the order of the posts, by schedule."""
    return {schedule: _record_posts(name, schedule) for schedule in schedules}


def _record_posts(name, schedule):
    sizes = []

    def recording(exchange, rows_M):
        sizes.append(dist.get_world_size(exchange.group))
        return real(exchange, rows_M)

    real = Exchange.post
    with mock.patch.object(Exchange, "post", recording):
        run_stack(case_of(name, moe_exchange_schedule=schedule))
    return sizes


def test_the_order_of_exchanges():
    for recorded in run_processes(record_posts, "seq", tuple(ORDERS), processes=4):
        for schedule, posts in recorded.items():
            plain, posts = posts[:2] + posts[-2:], posts[2:-2]  # the stack's first mixture
            assert plain == [4, 4, 4, 4]
            assert posts == ORDERS[schedule]
