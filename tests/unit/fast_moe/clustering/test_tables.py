"""Tables of clusters: equal shares, whole keys, like tokens together."""

import pytest
import torch

from user_dir.fast_moe.clustering.tables import (
    Table,
    balanced_kmeans,
    cooccurrence_vectors,
    random_order,
    similar_order,
)
from user_dir.fast_moe.clustering.token_table import TokenTable, _hash
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.ranked import rank_tokens

PAD = 1


def zipf_counts(num_keys: int) -> torch.Tensor:
    return (1e6 / (1 + torch.arange(num_keys))).long()


@pytest.mark.parametrize("num_experts", [2, 8, 64])
def test_every_expert_expects_the_same_share(num_experts):
    counts = zipf_counts(5000)
    table = Table.of(counts, random_order(counts, whole=[2], seed=3), num_experts=num_experts)
    shares = table.shares(num_experts)
    assert (shares * num_experts - 1).abs().max() < 0.01


def test_another_seed_gives_another_table_and_the_same_one_the_same():
    counts = zipf_counts(500)
    one, same, other = (
        Table.of(counts, random_order(counts, whole=[2], seed=seed), num_experts=8)
        for seed in (3, 3, 4)
    )
    assert torch.equal(one.start_K, same.start_K)
    assert not torch.equal(one.start_K, other.start_K)


def test_a_text_is_divided_as_the_table_expects_and_by_nothing_but_tokens():
    generator = torch.Generator().manual_seed(1)
    counts = zipf_counts(300)
    ids_BS = torch.multinomial(counts.double(), 64 * 200, replacement=True, generator=generator)
    ids_BS = ids_BS.view(64, 200)
    ids_BS[ids_BS == PAD] = 5
    table = TokenTable(num_keys=300, num_experts=8, num_groups=2, by_language=False)
    counts = torch.bincount(ids_BS.flatten(), minlength=300)
    table.fill(Table.of(counts, random_order(counts, whole=[], seed=1), num_experts=8))
    tokens = rank_tokens(
        ids_BS == PAD, torch.zeros(64, dtype=torch.int64), num_hosted=1, keys=keys(ids_BS)
    )
    assignment = table.assign(torch.zeros(1, 64 * 200, 1), tokens)
    shares = torch.bincount(assignment.expert_VT[0], minlength=8) / ids_BS.numel()
    # The token before is no perfect die: the most frequent ones weigh a few per cent each.
    assert (shares * 8 - 1).abs().max() < 0.15
    assert torch.equal(assignment.group_VT, assignment.expert_VT // 4)
    shuffled = torch.flip(ids_BS, [0])
    again = rank_tokens(
        shuffled == PAD, torch.zeros(64, dtype=torch.int64), num_hosted=1, keys=keys(shuffled)
    )
    moved = table.assign(torch.zeros(1, 64 * 200, 1), again).expert_VT.view(64, 200).flip(0)
    assert torch.equal(moved, assignment.expert_VT.view(64, 200))


def test_a_file_of_groups_is_kept_and_balanced_within():
    counts = zipf_counts(100)
    groups = torch.arange(100) % 2
    table = Table.within(groups, counts, num_groups=2, num_experts=8)
    middle = (table.start_K + table.length_K // 2) // 2**32
    assert torch.equal((middle // 4)[counts > 0], groups[counts > 0])
    for group in range(2):
        shares = table.shares(8)[group * 4 : group * 4 + 4]
        assert (shares / shares.mean() - 1).abs().max() < 0.01


def test_like_tokens_come_together_and_groups_stay_balanced():
    """Two topics that never meet in a sentence; a table that knows them keeps them apart."""
    generator = torch.Generator().manual_seed(2)
    sentences = [
        torch.randint(0, 50, (12,), generator=generator) * 2 + 4 + topic % 2 for topic in range(600)
    ]
    counts = torch.bincount(torch.cat(sentences), minlength=110)
    vectors = cooccurrence_vectors(sentences, num_keys=110)
    groups = balanced_kmeans(vectors, counts, num_groups=2, seed=1)
    seen = counts > 0
    topic_of = torch.arange(110) % 2
    agreement = (groups[seen] == topic_of[seen]).double().mean()
    assert max(agreement, 1 - agreement) > 0.95
    order = similar_order(counts, vectors, num_groups=2, whole=[], seed=1)
    shares = Table.of(counts, order, num_experts=2).shares(2)
    assert (shares * 2 - 1).abs().max() < 0.01


def test_the_hash_is_even_over_pairs():
    ids = torch.arange(4, 300)
    values = _hash(ids.unsqueeze(0), ids.unsqueeze(1)).flatten()
    counts = torch.bincount(values >> 12, minlength=16) / len(values)
    assert (counts * 16 - 1).abs().max() < 0.05
    assert values.min() >= 0 and values.max() < 2**16


def keys(ids_BS: torch.Tensor) -> TokenKeys:
    return TokenKeys.of(ids_BS, pad=PAD)
