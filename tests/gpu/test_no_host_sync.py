"""With fixed capacities the host never waits for the GPU; torch's debug mode would say so."""

import pytest
import torch

from tests.gpu.checks import check_never_waits
from tests.support.chains import EXACT_ON_RANK, FIXED_CAPACITY, with_options
from tests.support.devices import DEVICE, IS_CUDA, no_host_sync
from tests.support.stack_cases import StackCase

NOISES = [
    StackCase(policy, {"moe_second_expert_policy": policy}, with_noise=True)
    for policy in ("sampling", "random")
]
OPTIONS = [{"moe_gating_use_fp32": True}, {"moe_exchange_schedule": "serial"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", FIXED_CAPACITY + NOISES, ids=lambda case: case.name)
def test_layers_of_fixed_capacity_never_wait(case, dtype):
    check_never_waits(case, dtype)


@pytest.mark.parametrize("case", EXACT_ON_RANK, ids=str)
def test_nor_does_what_stays_on_its_rank_with_many_experts(case):
    check_never_waits(case, torch.bfloat16)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", FIXED_CAPACITY, ids=lambda case: case.name)
def test_nor_do_they_with_other_options(case, options):
    check_never_waits(with_options(case, **options), torch.float32)


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", FIXED_CAPACITY, ids=lambda case: case.name)
def test_nor_do_they_under_autocast(case, autocast):
    check_never_waits(case, torch.float32, autocast=autocast)


@pytest.mark.skipif(not IS_CUDA, reason="only CUDA has the debug mode")
def test_the_debug_mode_notices_and_is_restored():
    x = torch.ones(3, device=DEVICE)
    before = torch.cuda.get_sync_debug_mode()
    with pytest.raises(RuntimeError, match="synchroniz"), no_host_sync():
        x.sum().item()
    assert torch.cuda.get_sync_debug_mode() == before
