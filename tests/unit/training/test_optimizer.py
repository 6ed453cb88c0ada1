"""What `moe_adam` takes of fairseq's options, and what it refuses."""

from argparse import Namespace

import pytest
import torch
from fairseq.optim import OPTIMIZER_REGISTRY

from user_dir import register  # noqa: F401 - registers the optimizer
from user_dir.errors import UserError


def build_optimizer(**options):
    cfg = Namespace(lr=[0.1], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.0)
    cfg = Namespace(**vars(cfg), **{"fp16_adam_stats": False, "use_old_adam": False, **options})
    return OPTIMIZER_REGISTRY["moe_adam"](cfg, [torch.nn.Parameter(torch.ones(3))])


def test_half_precision_state_is_refused():
    build_optimizer()
    with pytest.raises(UserError, match="--fp16-adam-stats does not work"):
        build_optimizer(fp16_adam_stats=True)


def test_the_step_is_that_of_fairseqs_own_adam():
    steps = []
    for name in ("moe_adam", "adam"):
        parameter = torch.nn.Parameter(torch.ones(3))
        options = {"lr": [0.1], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8, "tpu": False}
        options |= {"weight_decay": 0.01, "fp16_adam_stats": False, "use_old_adam": True}
        optimizer = OPTIMIZER_REGISTRY[name](Namespace(**options), [parameter])
        for grad in (0.5, -2.0):
            parameter.grad = torch.full((3,), grad)
            optimizer.step()
        steps.append(parameter.detach())
    assert torch.equal(*steps)
