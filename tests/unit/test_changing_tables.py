"""The control of benchmarks.learning whose clusters change: it changes nothing else."""

import sys

import pytest
import torch

from benchmarks import changing_tables
from benchmarks.changing_tables import ChangingTable
from user_dir.fast_moe.clustering.tables import Table, random_order
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.fast_moe.tokens.ranked import rank_tokens

PAD = 1


def test_tokens_stay_together_and_change_their_cluster_with_the_update():
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(2, 300, (64, 50), generator=generator)
    counts = torch.bincount(ids_BS.flatten(), minlength=300)
    table = ChangingTable(num_keys=300, num_experts=8, num_groups=2, by_language=False)
    made = Table.of(counts, random_order(counts, whole=[], seed=1), num_experts=8)
    table.fill(made)

    def assign(update):
        tokens = rank_tokens(
            ids_BS == PAD,
            torch.zeros(64, dtype=torch.int64),
            num_hosted=1,
            keys=TokenKeys.of(ids_BS, pad=PAD),
            noise=None if update is None else NoiseKey(1, update, 0),
        )
        return table.assign(torch.zeros(1, 64 * 50, 1), tokens).expert_VT[0]

    at_rest, first, again, second = assign(None), assign(1), assign(1), assign(2)
    assert torch.equal(first, again) and torch.equal(at_rest, assign(None))
    assert torch.equal(table.start_K, made.start_K)
    for one, other in (first, second), (first, at_rest):
        assert (one == other).double().mean() < 0.2  # an eighth by chance
    for experts in first, second:
        shares = torch.bincount(experts, minlength=8) / len(experts)
        assert (shares * 8 - 1).abs().max() < 0.15
        of_id = [experts[ids_BS.flatten() == key].unique() for key in range(2, 300)]
        # Those that lie over a border go to two experts.
        assert sum(len(found) == 1 for found in of_id) > 280


def test_other_processes_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["changing_tables", "--processes", "2", "data"])
    with pytest.raises(SystemExit, match="--processes 1"):
        changing_tables.main()
