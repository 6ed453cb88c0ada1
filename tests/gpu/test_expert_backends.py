"""Every back end of the experts multiplies on a GPU what a batched product on the CPU does."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.chains import relative_error
from tests.support.devices import DEVICE
from user_dir.fast_moe.experts.backends import apply_experts

DIM, HIDDEN = 64, 128
SHAPES = {
    "rectangular": None,
    "even": [40, 40, 40],
    "uneven": [130, 1, 37],
    "experts without rows": [0, 64, 0, 7, 0],
    "no rows": [0, 0, 0],
}
# Shares of the norm: about four units in the last place of each.
NEAR = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
needs_grouped = pytest.mark.skipif(
    not hasattr(F, "grouped_mm"), reason="needs torch.nn.functional.grouped_mm"
)
BACKENDS = ["auto", "bmm", pytest.param("grouped", marks=needs_grouped)]


def draw(counts: list[int] | None) -> list[Tensor]:
    """Rows and weights in double, exact in every precision."""
    generator = torch.Generator().manual_seed(5)
    experts = 3 if counts is None else len(counts)
    shape = (3, 40, DIM) if counts is None else (sum(counts), DIM)
    shapes = [shape, (experts, DIM, HIDDEN), (experts, HIDDEN), (experts, HIDDEN, DIM)]
    scales = (1.0, DIM**-0.5, 1.0, HIDDEN**-0.5, 1.0)
    return [
        (scale * torch.randn(one, generator=generator)).to(torch.bfloat16).double()
        for scale, one in zip(scales, [*shapes, (experts, DIM)], strict=True)
    ]


def run(tensors: list[Tensor], counts: list[int] | None, backend: str, **to) -> list[Tensor]:
    """Values and gradients, on the CPU in double; smooth, so that rounding changes little."""
    rows, *weights = (tensor.detach().to(**to).requires_grad_() for tensor in tensors)
    y = apply_experts(rows, counts, tuple(weights), activate=F.gelu, backend=backend)
    assert y.shape == rows.shape and y.dtype == rows.dtype
    (y * torch.linspace(-1, 1, y.shape[-1]).to(y)).sum().backward()
    return [tensor.detach().cpu().double() for tensor in (y, *(t.grad for t in (rows, *weights)))]


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("counts", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_the_cpu(counts, backend, dtype):
    tensors = draw(counts)
    expected = run(tensors, counts, "bmm", device="cpu")
    for ours, theirs in zip(
        run(tensors, counts, backend, device=DEVICE, dtype=dtype), expected, strict=True
    ):
        assert ours.isfinite().all()
        assert relative_error(ours, theirs) <= NEAR[dtype]
