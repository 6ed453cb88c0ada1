"""Checkpoints: another layout is refused unless asked for."""

import pytest
import torch
from fairseq.optim.fp16_optimizer import FP16Optimizer

from tests.support.models import SMALL, build_model
from user_dir.checkpoints.gathering import SpreadExperts
from user_dir.errors import UserError
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology


def test_a_checkpoint_loads_into_another_layout_only_when_asked_for():
    saved = build_model(**SMALL).state_dict()
    args = {**SMALL, "moe_nodes": 4, "moe_ranks_per_node": 2}
    asked_for = build_model(**args, seed=2)
    asked_for.load_state_dict(dict(saved))
    assert_loaded(asked_for, saved, layout=[4, 2])
    del args["moe_nodes"], args["moe_ranks_per_node"]
    others = build_model(**args, seed=2)
    before = {name: tensor.clone() for name, tensor in others.state_dict().items()}
    with pytest.raises(UserError, match="--moe-nodes 2 --moe-ranks-per-node 2"):
        others.load_state_dict(dict(saved))
    assert_loaded(others, before, layout=[1, 1])


def assert_loaded(model, saved: dict, *, layout: list[int]) -> None:
    """Every tensor is the saved one, to the last bit; the layout is the model's own."""
    loaded = model.state_dict()
    assert loaded.keys() == saved.keys()
    for name, tensor in loaded.items():
        if name == "moe_layout":
            assert tensor.tolist() == layout
        else:
            assert torch.equal(tensor, saved[name]), name


def test_another_number_of_experts_is_refused_by_name():
    saved = build_model(**SMALL).state_dict()
    smaller = build_model(**SMALL, moe_expert_count=4, seed=2)
    with pytest.raises(UserError, match="--moe-expert-count 8 would do"):
        smaller.load_state_dict(saved)


def test_an_expert_is_drawn_alike_in_every_layout():
    one = build_model(**{**SMALL, "moe_nodes": 1, "moe_ranks_per_node": 1}).state_dict()
    four = build_model(**SMALL).state_dict()
    for name, tensor in one.items():
        if name != "moe_layout":
            assert torch.equal(four[name], tensor), name


def test_an_optimizer_of_float32_copies_finds_the_experts_of_the_other_processes():
    model = build_model(**SMALL)
    topology = Topology(Layout(2, 2), num_experts=8, process_index=0, num_processes=2)
    spread = SpreadExperts(model, topology)
    copies = FP16Optimizer.build_fp32_params(None, list(model.parameters()), flatten=False)
    assert SpreadExperts.of(copies) is spread
    assert SpreadExperts.of(build_model(**SMALL).parameters()) is None
