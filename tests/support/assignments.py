"""Scores to assign by, and what an assignment must be."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment


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


def best_balanced(scores_TG: np.ndarray) -> np.ndarray:
    """The balanced assignment with the largest sum, by scipy.

    Every group has floor(T/G) places and one more, of which T mod G are used in all: the others
    are taken by dummies that may stand nowhere else.
    """
    num_tokens, num_groups = scores_TG.shape
    if num_tokens == 0:
        return np.zeros(0, dtype=int)
    floor, extra = divmod(num_tokens, num_groups)
    places = np.repeat(np.arange(num_groups), floor)
    if extra:
        places = np.concatenate([places, np.arange(num_groups)])
    matrix = scores_TG[:, places]
    if extra:
        dummies = np.full((num_groups - extra, len(places)), -1e9)
        dummies[:, -num_groups:] = 0
        matrix = np.vstack([matrix, dummies])
    _, columns = linear_sum_assignment(matrix, maximize=True)
    return places[columns[:num_tokens]]
