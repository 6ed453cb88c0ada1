"""Slots, capacities and gathers, against loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from user_dir.fast_moe.dispatch.capacity import CapacityTrip
from user_dir.fast_moe.dispatch.dropless import DroplessTrip
from user_dir.fast_moe.dispatch.schedule import run_trips
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.routing.capacity import CapacityRule, expert_capacity
from user_dir.fast_moe.routing.slots import Routing, assign_slots, build_routing


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 5),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_slots_count_first_choices_then_second_ones_by_priority(
    num_tokens, num_experts, num_choices, prioritized, seed
):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, num_experts, (2, num_tokens, num_choices), generator=generator)
    priority = None
    if prioritized:
        priority = torch.stack([torch.randperm(num_tokens, generator=generator) for _ in range(2)])
    slots, counts, firsts = assign_slots(ids, num_experts=num_experts, priority_VT=priority)
    for v in range(2):
        tokens = list(range(num_tokens))
        if priority is not None:
            tokens.sort(key=lambda t, v=v: int(priority[v, t]))
        taken = [0] * num_experts
        expected = [[-1] * num_choices for _ in range(num_tokens)]
        for k in range(num_choices):
            for t in tokens:
                e = int(ids[v, t, k])
                if e >= 0:
                    expected[t][k] = taken[e]
                    taken[e] += 1
        assert slots[v].tolist() == expected
        assert counts[v].tolist() == taken
        assert firsts[v].tolist() == [int((ids[v, :, 0] == e).sum()) for e in range(num_experts)]


def test_capacity_takes_the_factor_as_a_decimal():
    # 1.1 * 2 * 5 is 11.000000000000002 in floating point, and 0.7 * 2 * 5 is 6.999…
    assert expert_capacity(40, 8, top_k=2, factor=1.1) == 11
    assert expert_capacity(40, 8, top_k=2, factor=0.7) == 7
    assert expert_capacity(0, 8, top_k=2, factor=1.0) == 1


@pytest.mark.parametrize(
    ("factor", "fraction", "training", "expected"),
    [
        (1.0, 0.0, True, 20),
        (1.0, 0.0, False, None),
        (0.0, 0.25, True, None),
        (0.0, 0.25, False, 20),
        (1.0, -1.0, False, 20),
        (0.0, -1.0, False, None),
    ],
)
def test_capacity_follows_the_factor_in_training_and_the_fraction_at_evaluation(
    factor, fraction, training, expected
):
    rule = CapacityRule(top_k=2, factor=factor, evaluation_fraction=fraction)
    assert rule.slots(80, 8, training=training) == expected


def there_and_back(x, routing, topology, experts):
    kind = DroplessTrip if routing.capacity is None else CapacityTrip
    (y,) = run_trips([kind(x, routing, topology.plan(Reach.GLOBAL), experts)], overlap=False)
    return y


@pytest.mark.parametrize("capacity", [None, 30])
def test_exchange_there_and_back_is_the_identity_in_value_and_gradient(capacity):
    """Law 2: identity experts, weights that sum to 1, no drops; ragged and empty ranks."""
    topology = Topology(Layout(2, 2), num_experts=8)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 15, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([15, 0, 1, 7])
    is_pad = torch.arange(15) >= sizes.unsqueeze(-1)
    ids = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(60)])
    probs = torch.rand(4, 15, 2, generator=generator, dtype=torch.float64) + 0.1
    routing = build_routing(
        ids.view(4, 15, 2).masked_fill(is_pad.unsqueeze(-1), -1),
        probs,
        num_experts=8,
        capacity=capacity,
        normalize="after",
    )
    y = there_and_back(x, routing, topology, lambda rows, counts: rows)
    real = ~is_pad
    torch.testing.assert_close(y[real], x[real])
    assert (y[is_pad] == 0).all()
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad[real], weight[real])
    assert (x.grad[is_pad] == 0).all()


@pytest.mark.parametrize("capacity", [None, 3])
def test_gradients_pass_the_numerical_check(capacity):
    topology = Topology(Layout(1, 2), num_experts=4)
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(10)])
    ids = ids.view(2, 5, 2)
    x = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    probs = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def layer(x, probs):
        routing: Routing = build_routing(
            ids, probs, num_experts=4, capacity=capacity, normalize="after"
        )
        return there_and_back(x, routing, topology, lambda rows, counts: rows.tanh())

    assert torch.autograd.gradcheck(layer, (x, probs))
