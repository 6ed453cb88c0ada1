"""The stacks and models of fairseq on a GPU: the values of the CPU, and finite ones in fp16."""

import pytest
import torch

pytest.importorskip("fairseq", reason="stacks and models need fairseq")

from tests.support.chains import assert_near
from tests.support.devices import DEVICE
from tests.support.models import SMALL, build_model, loss_of, make_batch
from tests.support.stack_cases import CASES
from tests.support.stacks import run_stack

pytestmark = pytest.mark.usefixtures("same_assignment")

LENGTHS = [7, 3, 9, 4, 6, 2]
MODELS = {
    "gshard": {},
    "switch": {"moe_top1_expert": True},
    "seq": {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5},
    "feat": {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5},
    "seq, clustered": {"scomoe_type": "seq", "token_cluster": True},
    "feat, clustered": {"scomoe_type": "feat", "token_cluster": True},
    "recomputed": {"scomoe_type": "seq", "checkpoint_activations": True},
}


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.with_noise], ids=lambda case: case.name
)
def test_a_stack_in_double_equals_that_of_the_cpu(case):
    found, expected = run_stack(case, device=DEVICE), run_stack(case)
    for name in ("outputs", "balance_losses", "input_grads", "grads"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=1e-9, rtol=1e-7
        )


def run_model(options: dict, *, device, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """Loss and gradients, on the CPU in double; fairseq casts a model as here."""
    model = build_model(
        **{**SMALL, "encoder_embed_dim": 32, "moe_second_expert_policy": "all", **options}
    )
    model = model.to(device=device, dtype=dtype).train()
    net_input, target = make_batch(LENGTHS)
    net_input = {name: tensor.to(device) for name, tensor in net_input.items()}
    loss = loss_of(model, net_input, target.to(device))
    loss.backward()
    grads = {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: t.detach().cpu().double() for name, t in {"loss": loss, **grads}.items()}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_model_trains_as_on_the_cpu(options):
    found, expected = run_model(options, device=DEVICE), run_model(options, device="cpu")
    # Attention does not change when all keys are moved: this gradient is zero but for rounding.
    for run in found, expected:
        for name in [name for name in run if name.endswith("k_proj.bias.grad")]:
            del run[name]
    assert_near(found, expected, within=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_model_cast_by_fairseq_is_near_and_finite(options, dtype):
    options = {**options, "moe_gating_use_fp32": True}
    expected = run_model(options, device="cpu")
    found = run_model(options, device=DEVICE, dtype=dtype)
    assert found.keys() == expected.keys()
    assert all(value.isfinite().all() for value in found.values())
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0.05, atol=0)
