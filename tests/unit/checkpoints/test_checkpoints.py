"""Checkpoints: an interrupted save loses nothing, another layout is refused unless asked for."""

import os

import pytest
import torch

from tests.support.models import SMALL, build_model
from user_dir.checkpoints.files import mend_checkpoints
from user_dir.errors import UserError


def write(path, value):
    torch.save({"value": torch.full((1000,), value)}, path)


def test_a_cut_off_copy_is_restored_from_the_file_it_was_copied_from(tmp_path):
    write(tmp_path / "checkpoint_1_2.pt", 1.0)
    write(tmp_path / "checkpoint_1_4.pt", 2.0)
    os.utime(tmp_path / "checkpoint_1_2.pt", (1, 1))
    whole = (tmp_path / "checkpoint_1_4.pt").read_bytes()
    (tmp_path / "checkpoint_last.pt").write_bytes(whole[: len(whole) // 2])
    mend_checkpoints(str(tmp_path))
    assert torch.load(tmp_path / "checkpoint_last.pt")["value"][0] == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint_1_2.pt",
        "checkpoint_1_4.pt",
        "checkpoint_last.pt",
    ]


def test_a_damaged_checkpoint_alone_is_left_as_it_is(tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"checkpoint_last.pt is damaged"):
        mend_checkpoints(str(tmp_path))
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == b"PK nothing"


def test_a_checkpoint_loads_into_another_layout_only_when_asked_for():
    saved = build_model(**SMALL).state_dict()
    args = {**SMALL, "moe_nodes": 4, "moe_ranks_per_node": 2}
    build_model(**args).load_state_dict(dict(saved))  # asked for by its options
    del args["moe_nodes"], args["moe_ranks_per_node"]
    with pytest.raises(UserError, match="--moe-nodes 2 --moe-ranks-per-node 2"):
        build_model(**args).load_state_dict(dict(saved))


def test_another_number_of_experts_is_refused_by_name():
    saved = build_model(**SMALL).state_dict()
    with pytest.raises(UserError, match="--moe-expert-count 8 would do"):
        build_model(**SMALL, moe_expert_count=4).load_state_dict(saved)


def test_an_expert_is_drawn_alike_in_every_layout():
    one = build_model(**{**SMALL, "moe_nodes": 1, "moe_ranks_per_node": 1}).state_dict()
    four = build_model(**SMALL).state_dict()
    for name, tensor in one.items():
        if name != "moe_layout":
            assert torch.equal(four[name], tensor), name
