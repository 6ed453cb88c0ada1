"""A damaged checkpoint is replaced by the newest whole one, and kept beside it."""

import os

import pytest
import torch

from user_dir.checkpoints.mending import mend_checkpoints
from user_dir.errors import UserError

LAST = "checkpoint_last.pt"


def write(path, value, **how):
    state = {"cfg": {}, "model": {"value": torch.full((1000,), value)}}
    torch.save(state, path, **how)


def value_of(path):
    return torch.load(path)["model"]["value"][0].item()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def run(tmp_path):
    """A run that saved twice; the last checkpoint is the copy of the second file."""
    write(tmp_path / "checkpoint_1_2.pt", 1.0)
    write(tmp_path / "checkpoint_1_4.pt", 2.0)
    os.utime(tmp_path / "checkpoint_1_2.pt", (1, 1))
    os.utime(tmp_path / "checkpoint_1_4.pt", (2, 2))
    write(tmp_path / LAST, 2.0)
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_the_weights(path):
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((1000,), 2.0).numpy().tobytes())
    content[place + 500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip_a_bit_of_the_weights])
def test_a_damaged_copy_is_restored_from_the_newest_whole_file_and_kept(run, damage):
    damage(run / LAST)
    damaged = (run / LAST).read_bytes()
    before = files_of(run)
    mend_checkpoints(str(run))
    whole = before["checkpoint_1_4.pt"]
    assert files_of(run) == {**before, LAST: whole, f"{LAST}.damaged": damaged}
    cut(run / LAST)
    mend_checkpoints(str(run))
    assert (run / f"{LAST}.damaged").read_bytes() == damaged
    assert (run / f"{LAST}.damaged2").is_file()
    assert value_of(run / LAST) == 2.0


def test_a_whole_file_of_old_torch_is_left_as_it_is(run):
    write(run / LAST, 3.0, _use_new_zipfile_serialization=False)
    before = files_of(run)
    mend_checkpoints(str(run))
    assert files_of(run) == before


def test_a_damaged_checkpoint_alone_is_left_as_it_is(tmp_path):
    (tmp_path / LAST).write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"checkpoint_last.pt is damaged"):
        mend_checkpoints(str(tmp_path))
    assert files_of(tmp_path) == {LAST: b"PK nothing"}
