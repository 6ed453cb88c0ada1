"""The device that tests/gpu runs on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# SCOMOE_TEST_DEVICE=cpu tries the tests themselves where there is no GPU.
DEVICE = torch.device(os.environ.get("SCOMOE_TEST_DEVICE", "cuda"))
IS_CUDA = DEVICE.type == "cuda"


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Operations that make the host wait for the GPU fail."""
    if not IS_CUDA:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
