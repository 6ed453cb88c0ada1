"""Every back end equals a plain loop over experts, in values and gradients."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.choices import EXPERT_BACKENDS
from user_dir.fast_moe.experts import backends as expert_backends
from user_dir.fast_moe.experts.backends import apply_experts, check_backend
from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology

DIM, HIDDEN = 8, 16
COUNTS = {
    "even": [3, 3, 3],
    "uneven": [5, 1, 2],
    "empty experts": [0, 4, 0, 7, 0],
    "no rows": [0, 0, 0],
}


class LoopedMoeLinear(torch.autograd.Function):
    """FastMoE's signature: counts on the CPU, weights as (experts, output, input)."""

    @staticmethod
    def forward(ctx, rows, counts, weight, bias):
        assert counts.dtype == torch.int64 and not counts.is_cuda and int(counts.sum()) == len(rows)
        ctx.save_for_backward(rows, counts, weight)
        parts = zip(rows.split(counts.tolist()), weight, bias, strict=True)
        return torch.cat([x @ w.T + b for x, w, b in parts])

    @staticmethod
    def backward(ctx, grad):
        rows, counts, weight = ctx.saved_tensors
        sizes = counts.tolist()
        parts = list(zip(rows.split(sizes), grad.split(sizes), strict=True))
        return (
            torch.cat([g @ w for (_, g), w in zip(parts, weight, strict=True)]),
            None,
            torch.stack([g.T @ x for x, g in parts]),
            torch.stack([g.sum(0) for _, g in parts]),
        )


@pytest.fixture
def fake_fastmoe(monkeypatch):
    package, module = ModuleType("fmoe"), ModuleType("fmoe.linear")
    module.MOELinear = LoopedMoeLinear
    monkeypatch.setitem(sys.modules, "fmoe", package)
    monkeypatch.setitem(sys.modules, "fmoe.linear", module)


def draw_weights(num_experts: int, *, dim=DIM, hidden=HIDDEN, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((dim, hidden), (hidden,), (hidden, dim), (dim,))
    return [
        torch.randn(num_experts, *shape, generator=generator).to(dtype).requires_grad_()
        for shape in shapes
    ]


def draw_rows(*shape: int, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def in_a_loop(rows_MD: Tensor, counts: list[int], weights) -> Tensor:
    """Row by row."""
    expert_of_row = [e for e, count in enumerate(counts) for _ in range(count)]
    outputs = [rows_MD[:0] * 1]
    for row_D, e in zip(rows_MD, expert_of_row, strict=True):
        weight1_DH, bias1_H, weight2_HD, bias2_D = (weight[e] for weight in weights)
        outputs.append(((row_D @ weight1_DH + bias1_H).relu() @ weight2_HD + bias2_D)[None])
    return torch.cat(outputs)


def gradients(y: Tensor, rows: Tensor, weights, *, missing_is_zero=False) -> list[Tensor]:
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    return list(torch.autograd.grad(loss, [rows, *weights], materialize_grads=missing_is_zero))


def check_equals_a_loop(rows, counts, backend, *, dtype=torch.float32, dim=DIM, hidden=HIDDEN):
    even = [rows.shape[1]] * rows.shape[0] if counts is None else counts
    weights = draw_weights(len(even), dim=dim, hidden=hidden, dtype=dtype)
    y = apply_experts(rows, counts, tuple(weights), activate=F.relu, backend=backend)
    assert y.shape == rows.shape and y.dtype == dtype
    wide = [t.detach().double().requires_grad_() for t in (rows, *weights)]
    expected = in_a_loop(wide[0].flatten(0, -2), even, wide[1:]).view_as(rows)
    tolerance = dict(rtol=1e-4, atol=1e-4) if dtype is not torch.bfloat16 else dict(rtol=0, atol=1)
    found = [y, *gradients(y, rows, weights)]
    wanted = [expected, *gradients(expected, wide[0], wide[1:], missing_is_zero=True)]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), theirs, **tolerance)
        if dtype is torch.bfloat16 and ours.numel():
            assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.usefixtures("fake_fastmoe")
def test_ragged_rows_get_what_a_loop_gives(backend, counts):
    check_equals_a_loop(draw_rows(sum(counts), DIM), counts, backend)


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.usefixtures("fake_fastmoe")
def test_counts_on_a_device_leave_rows_of_nobody_at_zero(backend, counts):
    """Behind the experts' rows there may be others: 0, and no gradient comes from them."""
    rows, total = draw_rows(sum(counts) + 3, DIM), sum(counts)
    weights = draw_weights(len(counts))
    y = apply_experts(rows, torch.tensor(counts), tuple(weights), activate=F.relu, backend=backend)
    expected = in_a_loop(rows[:total], counts, weights)
    torch.testing.assert_close(y[:total], expected)
    found = gradients(y[:total], rows, weights, missing_is_zero=True)
    wanted = gradients(expected, rows, weights, missing_is_zero=True)
    for ours, theirs in zip(found, wanted, strict=True):
        ours = ours[:total] if ours.shape == rows.shape else ours
        theirs = theirs[:total] if theirs.shape == rows.shape else theirs
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (4, 1), (3, 0)])
@pytest.mark.usefixtures("fake_fastmoe")
def test_rectangular_rows_get_what_a_loop_gives(backend, shape):
    check_equals_a_loop(draw_rows(*shape, DIM), None, backend)


@pytest.mark.parametrize("backend", ["auto", "bmm", "grouped"])
@pytest.mark.parametrize("counts", [None, [4, 0, 9]], ids=["rectangular", "ragged"])
def test_bfloat16_is_as_near_as_it_can_be(backend, counts):
    shape = (3, 5, DIM) if counts is None else (13, DIM)
    check_equals_a_loop(
        draw_rows(*shape, dtype=torch.bfloat16), counts, backend, dtype=torch.bfloat16
    )


@pytest.mark.parametrize("backend", ["auto", "bmm"])
@pytest.mark.parametrize("counts", [None, [4, 0, 9]], ids=["rectangular", "ragged"])
def test_odd_widths_and_doubles_work_where_grouped_is_not_asked_for(backend, counts):
    shape = (3, 5, 7) if counts is None else (13, 7)
    check_equals_a_loop(draw_rows(*shape), counts, backend, dim=7, hidden=5)
    rows = draw_rows(*shape, dtype=torch.float64)
    check_equals_a_loop(rows, counts, backend, dtype=torch.float64, dim=7, hidden=5)


@pytest.mark.parametrize(
    ("dim", "hidden", "dtype", "what"),
    [
        (6, 16, torch.float32, "the input is 6 wide; 8 would do"),
        (8, 18, torch.float32, "--moe-expert-ffn-dim is 18 wide; 20 would do"),
        (8, 12, torch.bfloat16, "--moe-expert-ffn-dim is 12 wide; 16 would do"),
        (8, 16, torch.float64, "torch.float64"),
    ],
)
def test_grouped_refuses_what_it_cannot_multiply(dim, hidden, dtype, what):
    weights = tuple(draw_weights(2, dim=dim, hidden=hidden, dtype=dtype))
    with pytest.raises(UserError, match=f"--moe-expert-backend grouped.*{what}"):
        apply_experts(
            draw_rows(2, 3, dim, dtype=dtype), None, weights, activate=F.relu, backend="grouped"
        )


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.parametrize("counts", [None, [4, 0, 9]], ids=["rectangular", "ragged"])
@pytest.mark.usefixtures("fake_fastmoe")
def test_autocast_computes_in_its_own_type(backend, counts):
    rows = draw_rows(*((3, 5, DIM) if counts is None else (13, DIM)))
    weights = tuple(draw_weights(3))
    with torch.autocast("cpu", torch.bfloat16):
        y = apply_experts(rows, counts, weights, activate=F.relu, backend=backend)
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    assert rows.grad.dtype is torch.float32
    assert all(weight.grad.dtype is torch.float32 for weight in weights)


@pytest.mark.parametrize("backend", ["bmm", "grouped"])
def test_an_expanded_gradient_will_do(backend):
    rows, weights = draw_rows(9, DIM), draw_weights(3)
    y = apply_experts(rows, [4, 0, 5], tuple(weights), activate=F.relu, backend=backend)
    y.sum().backward()
    assert torch.equal(weights[3].grad, torch.tensor([[4.0], [0.0], [5.0]]).expand(3, DIM))


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.usefixtures("fake_fastmoe")
def test_hosted_ranks_share_the_weights_of_a_replica(backend, is_ragged):
    """Four ranks on one process hold two experts: 0, 1, 0, 1."""
    torch.manual_seed(3)
    experts = ExpertFFN(
        dim=DIM,
        hidden_dim=HIDDEN,
        topology=Topology(Layout(num_nodes=2, ranks_per_node=2), num_experts=2),
        backend=backend,
    )
    counts = [3, 0, 2, 4] if is_ragged else [3] * 4
    rows = draw_rows(*((sum(counts), DIM) if is_ragged else (4, 3, DIM)))
    y = experts(rows, counts if is_ragged else None)
    weights = list(experts.parameters())
    served = [weight[[0, 1, 0, 1]] for weight in weights]
    expected = in_a_loop(rows.flatten(0, -2), counts, served).view_as(rows)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        gradients(y, rows, weights), gradients(expected, rows, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", EXPERT_BACKENDS)
@pytest.mark.usefixtures("fake_fastmoe")
def test_activation_dropout_repeats_with_its_seed(backend):
    experts = ExpertFFN(
        dim=DIM,
        hidden_dim=HIDDEN,
        topology=Topology(Layout(1, 1), num_experts=2),
        activation_dropout=0.5,
        backend=backend,
    )
    rows = draw_rows(7, DIM)

    def run() -> Tensor:
        torch.manual_seed(1)
        return experts(rows, [3, 4])

    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, experts.eval()(rows, [3, 4]))


def test_without_fastmoe_the_error_names_the_flag_and_the_way(monkeypatch):
    monkeypatch.setitem(sys.modules, "fmoe", None)
    monkeypatch.delitem(sys.modules, "fmoe.linear", raising=False)
    with pytest.raises(UserError, match=r"--moe-expert-backend fastmoe.*github.com/laekov/fastmoe"):
        check_backend("fastmoe")


def test_an_older_torch_is_told_so(monkeypatch):
    monkeypatch.delattr(expert_backends.F, "grouped_mm")
    with pytest.raises(UserError, match=r"--moe-expert-backend grouped.*grouped_mm"):
        check_backend("grouped")
