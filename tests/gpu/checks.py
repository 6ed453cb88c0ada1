"""Checks that several tests of the GPU share."""

import torch

from tests.support.chains import activations_of, build_chain, pass_through, tokens_of
from tests.support.devices import DEVICE, no_host_sync
from tests.support.stack_cases import StackCase


def check_never_waits(
    case: StackCase, dtype: torch.dtype, *, autocast: torch.dtype | None = None
) -> None:
    """A forward and backward pass of layers whose tokens were ranked before."""
    chain = build_chain(case, device=DEVICE, dtype=dtype)
    tokens = tokens_of(case, device=DEVICE)  # once a pass: sizes have to be known
    x_SBD, weight_SBD = (
        activations_of(case, tokens, seed=seed, device=DEVICE, dtype=dtype) for seed in (11, 12)
    )
    # The first pass brings the plans of the exchanges to the GPU, where they stay.
    pass_through(chain, tokens, x_SBD.clone().requires_grad_(), weight_SBD, autocast=autocast)
    with no_host_sync():
        pass_through(chain, tokens, x_SBD.requires_grad_(), weight_SBD, autocast=autocast)
