"""Law 3: a layer equals loops over ranks, tokens and experts, in values and gradients."""

import pytest
import torch

from tests.support.oracle import capacity_of, route_rank
from tests.support.scenarios import (
    MISALIGNED,
    SCENARIOS,
    WEIGHTS,
    build_layer,
    loss_weights,
    noise_key,
    run_layer,
    tokens_of,
)
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import LayerSums


def oracle_capacity(scenario):
    longest = max(scenario.tokens_of_rank)
    top_k = 1 if scenario.top1 else 2
    if not scenario.training and scenario.evaluation_fraction >= 0:
        fraction = scenario.evaluation_fraction
        return None if fraction == 0 else max(1, -int(-(fraction * longest) // 1))
    return capacity_of(longest, scenario.num_experts, top_k, scenario.capacity_factor)


@pytest.mark.parametrize("scenario", SCENARIOS + MISALIGNED, ids=lambda s: s.name)
def test_layer_equals_a_loop_over_tokens(scenario):
    topology = Topology(Layout(*scenario.layout), num_experts=scenario.num_experts)
    layer = build_layer(scenario, topology)
    stacked = [getattr(layer.experts, name).detach().clone().requires_grad_() for name in WEIGHTS]
    gate_ED = layer.gate.projection.weight.detach().clone().requires_grad_()
    experts = [tuple(tensor[e] for tensor in stacked) for e in range(scenario.num_experts)]
    inputs = [x.requires_grad_() for x in tokens_of(scenario)]
    key = noise_key(scenario)
    noise = key.of_layer("encoder.1", topology.hosted_ranks, torch.device("cpu")) if key else None
    longest = max(scenario.tokens_of_rank)
    shape = (topology.num_ranks, longest, scenario.num_experts)
    results = []
    for rank, x_TD in enumerate(inputs):
        extra = {}
        if noise is not None and scenario.policy == "sampling":
            extra["gumbel_TE"] = noise.gumbel(torch.Size(shape))[rank]
        if noise is not None and scenario.policy == "random":
            extra["keep_uniform_T"] = noise.uniform(torch.Size(shape[:2]))[rank]
        results.append(
            route_rank(
                x_TD,
                gate_ED,
                experts,
                capacity=oracle_capacity(scenario),
                top_k=1 if scenario.top1 else 2,
                normalize_before=scenario.normalize_before,
                prioritized=scenario.prioritized,
                **extra,
            )
        )
    weights = loss_weights(scenario)
    loss = sum(
        (r.outputs * w).sum() + 0.3 * r.balance_loss for r, w in zip(results, weights, strict=True)
    )
    loss.backward()

    num_choices = sum(r.num_choices for r in results)
    num_dropped = sum(r.num_dropped for r in results)
    if scenario.drops and scenario.num_experts > 1:
        assert num_dropped > 0.05 * num_choices
    elif not scenario.drops:
        assert num_dropped == 0

    run = run_layer(scenario)
    # A gate in float32 knows the scores to seven digits only.
    close = {"atol": 1e-6, "rtol": 1e-5} if scenario.use_fp32 else {"atol": 1e-10, "rtol": 1e-9}
    for rank, result in enumerate(results):
        torch.testing.assert_close(run.outputs[rank], result.outputs.detach(), **close)
        torch.testing.assert_close(run.input_grads[rank], inputs[rank].grad, **close)
        torch.testing.assert_close(
            run.balance_losses[rank].double(), result.balance_loss.detach(), **close
        )
    torch.testing.assert_close(run.gate_grad, gate_ED.grad, **close)
    for mine, expected in zip(run.expert_grads, stacked, strict=True):
        torch.testing.assert_close(mine, expected.grad, **close)
    sums = LayerSums.of(run.sums.unsqueeze(0))
    assert sums["first_dropped"] + sums["second_dropped"] == num_dropped
    assert sums["tokens"] == sum(scenario.tokens_of_rank)
