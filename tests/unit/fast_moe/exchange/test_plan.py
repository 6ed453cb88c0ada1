"""The orders of an exchange: kept by their plan, copied once, gone with it."""

import gc
import weakref

import pytest
import torch

from user_dir.fast_moe.exchange.plan import Blocks, ExchangePlan
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology

CPU = torch.device("cpu")


def build_plan(*, num_ranks: int = 4, block_size: int = 4) -> ExchangePlan:
    return ExchangePlan.build(
        num_ranks=num_ranks,
        blocks=Blocks(block_size),
        ranks_per_node=2,
        process_index=0,
        num_processes=1,
    )


def test_orders_are_made_once_however_many_plans_there_are():
    plans = [build_plan(block_size=size) for size in (1, 2, 4) for _ in range(3)]
    first = [plan.orders(2, CPU) for plan in plans]
    for _ in range(3):
        for plan, orders in zip(plans, first, strict=True):
            assert plan.orders(2, CPU) is orders


def test_nothing_keeps_a_plan_alive_whose_model_is_gone():
    topology = Topology(Layout(2, 2), num_experts=8)
    plan = topology.plan(Reach.GLOBAL)
    plan.orders(2, CPU)
    gone = weakref.ref(plan)
    del topology, plan
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(("num_ranks", "block_size"), [(4, 4), (4, 2), (4, 1), (6, 3)])
@pytest.mark.parametrize("per_rank", [1, 3])
def test_within_a_process_chunks_leave_in_the_order_of_their_experts(
    num_ranks, block_size, per_rank
):
    """Expert by expert, and the chunks of an expert by the rank that they come from."""
    orders = build_plan(num_ranks=num_ranks, block_size=block_size).orders(per_rank, CPU)
    expected = [
        sender * block_size * per_rank + receiver % block_size * per_rank + expert
        for receiver in range(num_ranks)
        for expert in range(per_rank)
        for sender in range(
            receiver // block_size * block_size, (receiver // block_size + 1) * block_size
        )
    ]
    assert orders.leaving.tolist() == expected
    assert orders.place[orders.leaving].tolist() == list(range(len(expected)))
    assert orders.to_experts is None
