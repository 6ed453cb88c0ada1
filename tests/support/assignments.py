"""Scores to assign by, and what an assignment must be."""

import torch


def assert_valid(groups_T: torch.Tensor, num_tokens: int, num_groups: int) -> None:
    assert groups_T.shape == (num_tokens,)
    assert groups_T.dtype == torch.int64
    counts = torch.bincount(groups_T, minlength=num_groups).tolist()
    assert len(counts) == num_groups
    assert set(counts) <= {num_tokens // num_groups, -(-num_tokens // num_groups)}


def sum_of(scores_TG: torch.Tensor, groups_T: torch.Tensor) -> float:
    return scores_TG.double().gather(1, groups_T.unsqueeze(1)).sum().item()


def family(name: str, num_tokens: int, num_groups: int, seed: int) -> torch.Tensor:
    """Random and degenerate scores."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_tokens, num_groups, generator=g, dtype=torch.float64)
    if name == "normal":
        return normal
    if name == "integers":
        return (2 * normal).round()
    if name == "outer product":
        return normal[:, :1] * torch.randn(num_groups, generator=g, dtype=torch.float64)
    if name == "ranked":
        return torch.outer(torch.arange(num_tokens), torch.arange(num_groups)).double()
    if name == "same rows":
        return normal[:1].expand(num_tokens, num_groups).contiguous()
    if name == "skewed":
        return normal + 3 * torch.arange(num_groups)
    if name == "huge":
        return normal * 1e200
    assert name == "constant rows"
    return normal[:, :1].expand(num_tokens, num_groups).contiguous()
