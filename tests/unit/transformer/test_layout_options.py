"""The logical layout that a model gets from its options, the checkpoint or what runs."""

from argparse import Namespace

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from user_dir.errors import UserError
from user_dir.transformer.options import resolve_layout


@pytest.fixture
def eight_processes(monkeypatch):
    """This process takes itself for the first of eight on two nodes."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


def layout_of(**options) -> tuple[int, int]:
    args = Namespace(**options)
    layout = resolve_layout(args)
    assert (args.moe_nodes, args.moe_ranks_per_node) == (layout.num_nodes, layout.ranks_per_node)
    assert args.moe_layout_given == bool(options.keys() & {"moe_nodes", "moe_ranks_per_node"})
    return layout.num_nodes, layout.ranks_per_node


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (2, 4)),
        ({"moe_nodes": 4}, (4, 2)),
        ({"moe_ranks_per_node": 2}, (4, 2)),
        ({"moe_ranks_per_node": 8}, (1, 8)),
        ({"moe_nodes": 3, "moe_ranks_per_node": 5}, (3, 5)),
    ],
)
def test_one_option_divides_what_runs(eight_processes, options, wanted):
    assert layout_of(**options) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (1, 1)),
        ({"moe_nodes": 2}, (2, 1)),
        ({"moe_ranks_per_node": 4}, (1, 4)),
        ({"moe_nodes": 2, "moe_ranks_per_node": 4}, (2, 4)),
    ],
)
def test_one_process_hosts_as_many_ranks_as_asked_for(options, wanted):
    assert layout_of(**options) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (2, 6)),
        ({"moe_nodes": 3}, (3, 4)),
        ({"moe_ranks_per_node": 4}, (3, 4)),
        ({"moe_nodes": 1, "moe_ranks_per_node": 2}, (1, 2)),
    ],
)
def test_one_option_divides_the_ranks_of_the_checkpoint(tmp_path, options, wanted):
    state = {"model": {"moe_layout": torch.tensor([2, 6])}, "cfg": {}}
    torch.save(state, tmp_path / "checkpoint_last.pt")
    resumed = {"save_dir": str(tmp_path), "restore_file": "checkpoint_last.pt"}
    assert layout_of(**resumed, **options) == wanted


@pytest.mark.parametrize("flag", ["nodes", "ranks_per_node"])
def test_none_at_all_is_refused(flag):
    with pytest.raises(UserError, match=f"--moe-{flag.replace('_', '-')} must be at least 1"):
        layout_of(**{f"moe_{flag}": 0})
