"""How stacked experts multiply: batched, grouped or FastMoE's kernels, one result.

Every back end computes activate(x · W1 + b1) · W2 + b2 with the weights of the row's expert; they
differ by float rounding only, in values and gradients. Experts without rows get zero gradients
rather than none, on every process alike.

Shape suffixes: L experts, M rows, D input width, H output width of one linear map.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from user_dir.errors import UserError

Linear = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows, weight_LDH, bias_LH

_GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALIGNMENT = 16  # bytes, of every row of a grouped product


def check_backend(backend: str) -> None:
    """Refuse a back end that cannot run here, before any training.

    Raises:
        UserError: FastMoE is not installed, or this torch has no grouped product.
    """
    if backend == "fastmoe":
        _fastmoe_linear()
    if backend == "grouped" and not _has_grouped():
        raise UserError(
            "--moe-expert-backend grouped needs torch.nn.functional.grouped_mm, which torch "
            f"{torch.__version__} lacks; install torch 2.11 or newer, or use bmm"
        )


def apply_experts(
    rows: Tensor,
    counts: list[int] | Tensor | None,
    weights: tuple[Tensor, ...],
    *,
    activate: Callable[[Tensor], Tensor],
    backend: str = "auto",
) -> Tensor:
    """Apply each expert to its rows.

    Args:
        rows: (L, M, D); or (M, D), grouped by expert, where counts are given.
        counts: rows of each expert; None when ``rows`` is rectangular. A tensor where the host
            does not know them: a grouped product takes them from there, and rows behind the last
            expert's are no one's and come out as 0.
        weights: of the two linear maps, stacked: (L, D, H), (L, H), (L, H, D), (L, D).
        backend: "auto", "bmm", "grouped" or "fastmoe".

    Returns:
        the outputs, shaped like ``rows``.

    Raises:
        UserError: the back end was asked for by name and cannot multiply these sizes.
    """
    rows, weights = _as_autocast(rows, weights)
    weight1_LDH = weights[0]
    if backend == "grouped":
        _refuse_ungroupable(weight1_LDH)
    if backend == "auto":
        backend = _choose(weight1_LDH, counts)
    if counts is None and backend == "bmm":
        return _two_maps(rows, weights, activate, _batched)
    rows_MD = rows.reshape(-1, rows.shape[-1])
    if backend == "grouped" and rows_MD.shape[0]:  # grouped_mm refuses no rows at all
        linear = _by_rows(_Grouped(_counts_on_device(counts, rows)))
    elif backend == "fastmoe":
        linear = _by_fastmoe(_counts_on_host(counts, rows), rows_MD.shape[0])
    else:
        linear = _by_rows(_Loop(_counts_on_host(counts, rows)))
    return _two_maps(rows_MD, weights, activate, linear).view_as(rows)


def _choose(weight_LDH: Tensor, counts: list[int] | Tensor | None) -> str:
    """What "auto" means for these weights.

    CPU, measured with torch 2.13 on an EPYC with AVX-512 and one thread, November 2026, as
    multiples of one dense network with as many rows, forward and backward: rectangular, 8 experts
    of 256 rows, bmm 1.00 and grouped 1.09 in float32, 1.02 and 1.00 in bfloat16; with 64 rows bmm
    1.21 and grouped 1.29, 1.26 and 1.39. Ragged: the loop 1.06 to 1.20 and grouped 1.06 to 1.12 at
    256 rows, the same within noise at 64 and in decoding; padding to the largest count up to
    3.3, and never the best one, down to a row an expert.

    CUDA, reasoned and not measured: equal sizes are what cuBLAS's batched product is made for;
    counts go to the fused kernel of grouped_mm where there is one, bfloat16 on sm90 and sm100;
    elsewhere, sm120 included, it is a loop that waits for the offsets. Counts that the host does
    not know go there all the same, where the widths allow it: the loop here would wait as well.
    """
    if counts is None or weight_LDH.device.type == "cpu" or not _is_groupable(weight_LDH):
        return "bmm"
    if isinstance(counts, Tensor):
        return "grouped"
    if not (weight_LDH.is_cuda and weight_LDH.dtype is torch.bfloat16):
        return "bmm"
    is_fused = torch.cuda.get_device_capability(weight_LDH.device)[0] in (9, 10)
    return "grouped" if is_fused else "bmm"


def _two_maps(rows: Tensor, weights, activate, linear: Linear) -> Tensor:
    weight1_LDH, bias1_LH, weight2_LHD, bias2_LD = weights
    hidden = activate(linear(rows, weight1_LDH, bias1_LH))
    return linear(hidden, weight2_LHD, bias2_LD)


def _as_autocast(rows: Tensor, weights):
    """What autocast would do to a matrix product; our own functions are unknown to it."""
    device = rows.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return rows, weights
    dtype = torch.get_autocast_dtype(device)
    return rows.to(dtype), tuple(weight.to(dtype) for weight in weights)


def _batched(x_LMD: Tensor, weight_LDH: Tensor, bias_LH: Tensor) -> Tensor:
    return torch.baddbmm(bias_LH.unsqueeze(1), x_LMD, weight_LDH)


# --- rows grouped by expert -------------------------------------------------------------------


class _Loop:
    """What a linear map and its gradients are made of, expert by expert; each product is written
    where it belongs."""

    def __init__(self, counts: list[int]):
        self.counts, self.num_rows = counts, sum(counts)

    def rows(self, x_MD: Tensor, weight_LDH: Tensor) -> Tensor:
        """x · W with the weight of each row's expert, (M, H)."""
        y_MH = x_MD.new_empty(x_MD.shape[0], weight_LDH.shape[-1])
        for x, weight, y in zip(self._parts(x_MD), weight_LDH, self._parts(y_MH), strict=True):
            torch.mm(x, weight, out=y)
        return y_MH

    def weights(self, x_MD: Tensor, grad_MH: Tensor) -> Tensor:
        """xᵀ · grad over the rows of each expert, (L, D, H)."""
        y_LDH = x_MD.new_empty(len(self.counts), x_MD.shape[1], grad_MH.shape[1])
        for x, grad, y in zip(self._parts(x_MD), self._parts(grad_MH), y_LDH, strict=True):
            torch.mm(x.T, grad, out=y)
        return y_LDH

    def add(self, y_MH: Tensor, bias_LH: Tensor) -> None:
        """Add to each row the bias of its expert; rows of no expert become 0."""
        for y, bias in zip(self._parts(y_MH), bias_LH, strict=True):
            y += bias
        y_MH[self.num_rows :] = 0

    def sums(self, grad_MH: Tensor) -> Tensor:
        """The sum of the rows of each expert, (L, H)."""
        return torch.stack([grad.sum(dim=0) for grad in self._parts(grad_MH)])

    def _parts(self, rows_M: Tensor) -> tuple[Tensor, ...]:
        return rows_M[: self.num_rows].split(self.counts)


class _Grouped:
    """The same by `torch.nn.functional.grouped_mm`: few kernels, however many experts."""

    def __init__(self, counts_L: Tensor):
        self.ends_L = counts_L.cumsum(0, dtype=torch.int32)

    def rows(self, x_MD: Tensor, weight_LDH: Tensor) -> Tensor:
        return F.grouped_mm(x_MD, weight_LDH, offs=self.ends_L)

    def weights(self, x_MD: Tensor, grad_MH: Tensor) -> Tensor:
        return F.grouped_mm(x_MD.T, grad_MH, offs=self.ends_L)

    def add(self, y_MH: Tensor, bias_LH: Tensor) -> None:
        row_M = torch.arange(y_MH.shape[0], device=y_MH.device, dtype=torch.int32)
        expert_M = torch.searchsorted(self.ends_L, row_M, right=True).clamp(max=len(bias_LH) - 1)
        y_MH += bias_LH[expert_M]
        # What grouped_mm leaves behind the last expert's rows is not even a number.
        y_MH.masked_fill_((row_M >= self.ends_L[-1]).unsqueeze(-1), 0)

    def sums(self, grad_MH: Tensor) -> Tensor:
        # Deterministic, unlike the gradient of an indexed bias; rows must be 16 bytes at least.
        ones = grad_MH.new_ones(grad_MH.shape[0], _step(grad_MH.dtype))
        return self.weights(ones, grad_MH)[:, 0]


def _by_rows(products: _Loop | _Grouped) -> Linear:
    return lambda x, weight, bias: _RowLinear.apply(x, weight, bias, products)


class _RowLinear(torch.autograd.Function):
    """x · W + b by expert. Its backward writes every gradient once: autograd through slices of
    the weights would add up as many tensors of their full size as there are experts."""

    @staticmethod
    def forward(ctx, x_MD, weight_LDH, bias_LH, products) -> Tensor:
        x_MD = x_MD.contiguous()
        ctx.save_for_backward(x_MD, weight_LDH)
        ctx.products = products
        y_MH = products.rows(x_MD, weight_LDH)
        products.add(y_MH, bias_LH)
        return y_MH

    @staticmethod
    def backward(ctx, grad_MH: Tensor):
        x_MD, weight_LDH = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_MH = grad_MH.contiguous()
        return (
            ctx.products.rows(grad_MH, weight_LDH.transpose(1, 2)) if needs_x else None,
            ctx.products.weights(x_MD, grad_MH) if needs_weight else None,
            ctx.products.sums(grad_MH) if needs_bias else None,
            None,
        )


def _counts_on_device(counts: list[int] | Tensor | None, rows: Tensor) -> Tensor:
    if isinstance(counts, Tensor):
        return counts
    if counts is None:  # made where it is needed: nothing to copy
        return torch.full(rows.shape[:1], rows.shape[1], device=rows.device)
    return torch.tensor(counts).to(rows.device, non_blocking=True)


def _counts_on_host(counts: list[int] | Tensor | None, rows: Tensor) -> list[int]:
    if isinstance(counts, Tensor):
        return counts.tolist()  # host sync on a GPU: these widths or this back end need numbers
    return [rows.shape[1]] * rows.shape[0] if counts is None else counts


def _step(dtype: torch.dtype) -> int:
    """Elements that widths must be multiples of for grouped products."""
    return max(1, _ALIGNMENT // dtype.itemsize)


def _is_groupable(weight_LDH: Tensor) -> bool:
    aligned = not any(width % _step(weight_LDH.dtype) for width in weight_LDH.shape[1:])
    return aligned and weight_LDH.dtype in _GROUPED_DTYPES and _has_grouped()


def _has_grouped() -> bool:
    return hasattr(F, "grouped_mm")


def _refuse_ungroupable(weight_LDH: Tensor) -> None:
    dtype = weight_LDH.dtype
    if dtype not in _GROUPED_DTYPES:
        raise UserError(
            f"--moe-expert-backend grouped multiplies float32, bfloat16 and float16, but the "
            f"experts are {dtype}; use bmm"
        )
    step = _step(dtype)
    for what, width in zip(
        ("the input", "--moe-expert-ffn-dim"), weight_LDH.shape[1:], strict=True
    ):
        if width % step:
            near = -(-width // step) * step
            raise UserError(
                f"--moe-expert-backend grouped needs widths that are multiples of {step} in "
                f"{dtype}, but {what} is {width} wide; {near} would do, or --moe-expert-backend bmm"
            )


# --- FastMoE ------------------------------------------------------------------------------------


def _by_fastmoe(counts: list[int], num_rows: int) -> Linear:
    """FastMoE (He et al., 2021) keeps counts on the CPU and weights as (L, output, input)."""
    counts_L = torch.tensor(counts)
    moe_linear = _fastmoe_linear()
    of_nobody = num_rows - sum(counts)

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x[: num_rows - of_nobody].contiguous()
        y = moe_linear.apply(x, counts_L, weight.transpose(1, 2).contiguous(), bias)
        return F.pad(y, (0, 0, 0, of_nobody)) if of_nobody else y

    return linear


def _fastmoe_linear():
    module: ModuleType | None = None
    with suppress(ImportError):
        module = import_module("fmoe.linear")
    if module is None:
        raise UserError(
            "--moe-expert-backend fastmoe needs FastMoE, which cannot be imported; build it from "
            "https://github.com/laekov/fastmoe with CUDA (python setup.py install), or use "
            "--moe-expert-backend auto (with a trained model: --model-overrides "
            "\"{'moe_expert_backend': 'auto'}\")"
        )
    return module.MOELinear
