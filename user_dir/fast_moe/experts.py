"""The experts of this process: feed-forward networks with stacked weights. Level 2.

Shape suffixes: L experts held here, M rows of an expert, D model width, H hidden width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from user_dir.fast_moe.expert_sharding import ExpertShard, ShardedExperts
from user_dir.fast_moe.topology import Topology


class ExpertFFN(ShardedExperts):
    """Two-layer feed-forward experts, stacked: every weight has the expert as first dimension.

    Each expert is drawn from a seed made of one number that all processes draw alike and of its
    global id, so that its weights depend neither on the layout nor on the processes. The
    distribution is that of `nn.Linear`.

    Args:
        activation_dropout: probability of zeroing a hidden value in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        topology: Topology,
        activation_fn: Callable[[Tensor], Tensor] = F.relu,
        activation_dropout: float = 0.0,
    ):
        super().__init__(topology)
        self.activation_fn = activation_fn
        self.activation_dropout = activation_dropout
        held = topology.held_experts(topology.process_index)
        seed = int(torch.randint(2**31, ()).item())
        drawn = [_draw_expert(dim, hidden_dim, seed=seed + 7919 * expert) for expert in held]
        shard = ExpertShard(topology)
        self.weight1_LDH, self.bias1_LH, self.weight2_LHD, self.bias2_LD = (
            shard.parameter(torch.stack(tensors)) for tensors in zip(*drawn, strict=True)
        )
        # Which of the held experts each served one is: hosted ranks share weights as replicas.
        served = [held.index(e) for r in topology.hosted_ranks for e in topology.experts_of_rank(r)]
        self._served = None if served == list(range(len(held))) else torch.tensor(served)

    def forward(self, rows: Tensor, counts: list[int] | None = None) -> Tensor:
        """Apply each expert to its rows.

        Args:
            rows: (experts served, M, D); or (M, D), grouped by expert, where counts are given.
            counts: rows of each expert; None when ``rows`` is rectangular.

        Returns:
            the outputs, shaped like ``rows``.
        """
        weights: tuple[Tensor, ...] = (
            self.weight1_LDH,
            self.bias1_LH,
            self.weight2_LHD,
            self.bias2_LD,
        )
        if self._served is not None:
            served = self._served.to(rows.device)
            weights = tuple(weight.index_select(0, served) for weight in weights)
        if counts is None:
            return self._batched(rows, *weights)
        return _ragged(rows, counts, lambda x, e: self._single(x, *(w[e] for w in weights)))

    def _batched(self, x_LMD, weight1_LDH, bias1_LH, weight2_LHD, bias2_LD) -> Tensor:
        hidden_LMH = torch.baddbmm(bias1_LH.unsqueeze(1), x_LMD, weight1_LDH)
        return torch.baddbmm(bias2_LD.unsqueeze(1), self._activate(hidden_LMH), weight2_LHD)

    def _single(self, x_MD, weight1_DH, bias1_H, weight2_HD, bias2_D) -> Tensor:
        hidden_MH = torch.addmm(bias1_H, x_MD, weight1_DH)
        return torch.addmm(bias2_D, self._activate(hidden_MH), weight2_HD)

    def _activate(self, hidden: Tensor) -> Tensor:
        return F.dropout(self.activation_fn(hidden), self.activation_dropout, self.training)


def _ragged(rows_MD: Tensor, counts: list[int], expert: Callable[[Tensor, int], Tensor]) -> Tensor:
    # Empty experts take part as well: their gradients are zero rather than missing, on every
    # process alike.
    parts = rows_MD.split(counts)
    return torch.cat([expert(part, index) for index, part in enumerate(parts)])


def _draw_expert(dim: int, hidden_dim: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, fan_in: int) -> Tensor:
        bound = 1 / math.sqrt(fan_in)
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)

    return (
        uniform(dim, hidden_dim, fan_in=dim),
        uniform(hidden_dim, fan_in=dim),
        uniform(hidden_dim, dim, fan_in=hidden_dim),
        uniform(dim, fan_in=hidden_dim),
    )
