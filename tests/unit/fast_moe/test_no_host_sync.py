"""With fixed capacities nothing makes the host wait for an accelerator; needs none.

Tensors on torch's device "meta" have shapes but no values: whoever reads one fails, and so does
an index or mask whose result depends on values. What would work all the same, copying to and from
the host, is forbidden by two modes of torch. tests/gpu asks a real GPU.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.chains import (
    EXACT_ON_RANK,
    FIXED_CAPACITY,
    activations_of,
    build_chain,
    pass_through,
    tokens_of,
)
from tests.support.stack_cases import StackCase


class NoTransfers(TorchDispatchMode):
    """Refuses operations that touch host and device, or that let the host read a tensor.

    Scalars on the host are passed along with a kernel; they may be mixed with anything.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, result))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        devices = {t.device.type for t in tensors if t.dim() or t.device.type != "cpu"}
        if len(devices) > 1:
            raise AssertionError(f"{func} moves values between {' and '.join(sorted(devices))}")
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("the host reads a tensor")
        return result


class NoHostIndices(TorchFunctionMode):
    """Refuses what turns lists into tensors on a device, which a dispatch mode does not see."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, list) for part in index), "a list is copied as an index"
        if func in (torch.tensor, torch.as_tensor):
            device = torch.device((kwargs or {}).get("device") or "cpu")
            assert device.type == "cpu", "values are copied to a device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_transfers():
    with NoTransfers(), NoHostIndices():
        yield


def prepare(case: StackCase, dtype: torch.dtype):
    """Everything that is copied once, or once a pass, before the layers run."""
    tokens = tokens_of(case, device="cpu")
    on_meta = {"device": "meta", "dtype": dtype}
    activations = [activations_of(case, tokens, seed=seed, **on_meta) for seed in (11, 12)]
    tokens = replace(
        tokens,
        is_pad_VT=tokens.is_pad_VT.to("meta"),
        quotas_VR=tokens.quotas_VR.to("meta"),
        position_VT=tokens.position_VT.to("meta"),
        place_N=tokens.place_N.to("meta"),
    )
    return build_chain(case, **on_meta), tokens, *activations


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, torch.float32) for case in FIXED_CAPACITY),
        *((case, torch.bfloat16) for case in FIXED_CAPACITY + EXACT_ON_RANK),
    ],
    ids=str,
)
def test_layers_of_fixed_capacity_leave_the_host_alone(case, dtype):
    chain, tokens, x_SBD, weight_SBD = prepare(case, dtype)
    # The first pass brings the plans of the exchanges to the device, where they stay.
    pass_through(chain, tokens, x_SBD.clone().requires_grad_(), weight_SBD)
    with no_transfers():
        values = pass_through(chain, tokens, x_SBD.requires_grad_(), weight_SBD)
    assert all(value.is_meta for value in values.values())


READS = {
    "a value": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x.sum() > 0),
    "places": lambda x: (x > 0).nonzero(),
    "a mask": lambda x: x[x > 0],
    "a mask to write": lambda x: x.masked_scatter(x > 0, x.cpu()),
    "a copy to the host": lambda x: x.cpu(),
    "a list as an index": lambda x: x[[0, 1]],
    "an index on the host": lambda x: x[torch.tensor([0, 1])],
    "an index to select on the host": lambda x: x.index_select(0, torch.tensor([0, 1])),
    "a copy to the device": lambda x: torch.tensor([1, 2]).to(x.device),
    "values made on the device": lambda x: torch.tensor([1, 2], device=x.device),
    "repeats": lambda x: x.repeat_interleave(x.argmax(dim=1), dim=0),
    "one-hot ids": lambda x: torch.nn.functional.one_hot(x.argmax(dim=1)),
    "counts": lambda x: x.argmax(dim=1).bincount(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_a_gpu_would_wait_for_is_noticed(read):
    x = torch.ones(3, 4, device="meta")
    with no_transfers(), pytest.raises((AssertionError, RuntimeError)):
        read(x)


def test_scalars_of_the_host_are_no_transfer():
    x = torch.ones(3, 4, device="meta")
    with no_transfers():
        torch.where(x > 0, x, -1)
        x.masked_fill(x > 0, 0.0)
        x.new_full((), 3.0)
