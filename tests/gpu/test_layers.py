"""Mixtures on a GPU that hosts four ranks: the values of the CPU, and low precision near them."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.chains import VARIANTS, assert_near, run_chain, with_options
from tests.support.devices import DEVICE
from tests.support.scenarios import SCENARIOS, run_layer
from tests.support.stack_cases import StackCase

pytestmark = pytest.mark.usefixtures("same_assignment")

PRECISIONS = {
    "float16": {"dtype": torch.float16},
    "bfloat16": {"dtype": torch.bfloat16},
    "autocast to float16": {"autocast": torch.float16},
    "autocast to bfloat16": {"autocast": torch.bfloat16},
}
NOISES = [
    StackCase("sampling", {"moe_second_expert_policy": "sampling"}, with_noise=True),
    StackCase("random", {"moe_second_expert_policy": "random"}, with_noise=True),
]


@pytest.mark.parametrize("case", VARIANTS, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_the_cpu(case):
    assert_near(run_chain(case, device=DEVICE), run_chain(case), within=1e-4)


@pytest.mark.parametrize(
    "scenario", [s for s in SCENARIOS if not s.with_noise], ids=lambda scenario: scenario.name
)
def test_a_layer_in_double_equals_that_of_the_cpu(scenario):
    found, expected = run_layer(scenario, device=DEVICE), run_layer(scenario)
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("use_fp32", [True, False], ids=["float32 gates", "own gates"])
@pytest.mark.parametrize("case", VARIANTS, ids=lambda case: case.name)
def test_low_precision_comes_near(case, use_fp32, precision):
    found = run_chain(with_options(case, moe_gating_use_fp32=use_fp32), device=DEVICE, **precision)
    expected = run_chain(case)
    assert all(value.isfinite().all() for value in found.values())
    # Rounding turns close choices over: of a few tokens, whose gradients then go elsewhere.
    size_SB = expected["added"].norm(dim=-1)
    is_near_SB = (found["added"] - expected["added"]).norm(dim=-1) <= 0.1 * size_SB
    assert is_near_SB[size_SB > 0].double().mean() >= 0.8
    for name, value in expected.items():
        if name.endswith("grad") and value.norm() > 0:
            likeness = F.cosine_similarity(found[name].flatten(), value.flatten(), dim=0)
            assert likeness >= 0.6, name


@pytest.mark.parametrize("case", NOISES, ids=lambda case: case.name)
def test_noise_repeats_and_recomputation_draws_the_same(case):
    recomputed = StackCase(case.name, case.options, with_noise=True, recompute=True)
    first, without = run_chain(case, device=DEVICE), StackCase(case.name, case.options)
    assert_near(run_chain(case, device=DEVICE), first, within=1e-5)
    assert_near(run_chain(recomputed, device=DEVICE), first, within=1e-5)
    quiet = run_chain(without, device=DEVICE)
    assert not torch.allclose(quiet["added"], first["added"], atol=1e-3)
