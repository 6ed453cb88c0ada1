"""Mutual information of clusters with what tokens are, and the share that moved."""

import math

import torch

from user_dir.fast_moe.clustering.meaning import (
    KINDS,
    count_kinds,
    mutual_information,
    share_moved,
)
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.ranked import rank_tokens

PAD = 1


def counts_of(ids_BS: torch.Tensor, group_of) -> torch.Tensor:
    tokens = rank_tokens(
        ids_BS == PAD,
        torch.zeros(len(ids_BS), dtype=torch.int64),
        num_hosted=1,
        keys=TokenKeys.of(ids_BS, pad=PAD),
    )
    group_VT = group_of(tokens.key_VT(ids_BS)).masked_fill(tokens.is_pad_VT, -1)
    return count_kinds(group_VT, tokens, num_groups=4)


def sentences(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids_BS = torch.randint(4, 68, (200, 50), generator=generator)
    ids_BS[::2, 30:] = PAD
    return ids_BS


def test_a_cluster_that_follows_from_the_id_tells_two_bits_about_it():
    ids_BS = sentences(1)
    counts = counts_of(ids_BS, lambda ids: ids % 4)
    assert counts[KINDS["token"].start : KINDS["token"].stop].sum() == (ids_BS != PAD).sum()
    assert abs(mutual_information(counts, "token") - 2) < 0.01
    assert mutual_information(counts, "language") < 0.05


def test_a_random_cluster_tells_nothing():
    ids_BS = sentences(2)
    counts = counts_of(ids_BS, lambda ids: torch.randint(4, ids.shape))
    for of in KINDS:
        assert mutual_information(counts, of) < 0.05


def test_it_equals_the_formula():
    counts = counts_of(sentences(3), lambda ids: (ids > 40).long())
    part = counts[KINDS["token"].start : KINDS["token"].stop]
    total = float(part.sum())
    expected = 0.0
    for row in part.tolist():
        for group, count in enumerate(row):
            if count:
                apart = sum(row) / total * float(part[:, group].sum()) / total
                expected += count / total * math.log2(count / total / apart)
    assert abs(mutual_information(counts, "token") - expected) < 1e-9


def test_the_share_that_moved():
    ids_BS = sentences(4)
    before = counts_of(ids_BS, lambda ids: ids % 4)
    now = counts_of(ids_BS, lambda ids: torch.where(ids < 36, (ids + 1) % 4, ids % 4))
    expected = float((ids_BS[ids_BS != PAD] < 36).double().mean())
    assert abs(share_moved(before, now) - expected) < 1e-9
    assert share_moved(now, now) == 0
