"""Prices explain a balanced assignment: at them every token chooses what it was given."""

import pytest
import torch

from user_dir.fast_moe.clustering.prices import assignment_prices
from user_dir.fast_moe.routing.assignment import balanced_groups


@pytest.mark.parametrize(("num_tokens", "num_groups"), [(64, 4), (200, 8), (37, 5), (8, 8)])
def test_at_the_prices_every_token_chooses_its_group(num_tokens, num_groups):
    generator = torch.Generator().manual_seed(num_tokens)
    scores_VTG = torch.randn(3, num_tokens, num_groups, generator=generator, dtype=torch.float64)
    scores_VTG[..., 0] += 2  # which everybody likes
    part_VT = torch.zeros(3, num_tokens, dtype=torch.int64)
    part_VT[1, num_tokens // 2 :] = -1
    group_VT = balanced_groups(scores_VTG, part_VT, num_parts=1)
    prices_VG = assignment_prices(scores_VTG, group_VT)
    assert prices_VG.mean(1).abs().max() < 1e-12
    liked = scores_VTG - prices_VG.unsqueeze(1)
    own = liked.gather(2, group_VT.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    is_best = own >= liked.amax(-1) - 1e-9
    assert is_best[group_VT >= 0].all()
    assert prices_VG[0].argmax() == 0


def test_a_rank_without_tokens_has_no_prices():
    prices_VG = assignment_prices(torch.randn(1, 4, 3), torch.full((1, 4), -1))
    assert torch.equal(prices_VG, torch.zeros(1, 3, dtype=torch.float64))
