"""The experts of this process: feed-forward networks with stacked weights.

Shape suffixes: L experts held here, M rows of an expert, D model width, H hidden width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_dir.fast_moe.experts.backends import apply_experts, check_backend
from user_dir.fast_moe.experts.sharding import expert_parameter
from user_dir.fast_moe.layout.topology import Topology


class ExpertFFN(nn.Module):
    """Two-layer feed-forward experts, stacked: every weight has the expert as first dimension.

    Each expert is drawn from a seed made of one number that all processes draw alike and of its
    global id, so that its weights depend neither on the layout nor on the processes. The
    distribution is that of `nn.Linear`.

    Args:
        activation_dropout: probability of zeroing a hidden value in training.
        backend: how they multiply; see `apply_experts`.

    Raises:
        UserError: the back end cannot run here.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        topology: Topology,
        activation_fn: Callable[[Tensor], Tensor] = F.relu,
        activation_dropout: float = 0.0,
        backend: str = "auto",
    ):
        check_backend(backend)
        super().__init__()
        self.activation_fn = activation_fn
        self.activation_dropout = activation_dropout
        self.backend = backend
        held = topology.held_experts(topology.process_index)
        seed = int(torch.randint(2**31, ()).item())
        drawn = [_draw_expert(dim, hidden_dim, seed=seed + 7919 * expert) for expert in held]
        self.weight1_LDH, self.bias1_LH, self.weight2_LHD, self.bias2_LD = (
            expert_parameter(torch.stack(tensors)) for tensors in zip(*drawn, strict=True)
        )
        # Which of the held experts each served one is: hosted ranks share weights as replicas.
        served = [held.index(e) for r in topology.hosted_ranks for e in topology.experts_of_rank(r)]
        self._served = None if served == list(range(len(held))) else served

    def forward(self, rows: Tensor, counts: list[int] | Tensor | None = None) -> Tensor:
        """Apply each expert to its rows.

        Args:
            rows: (experts served, M, D); or (M, D), grouped by expert, where counts are given.
            counts: rows of each expert; None when ``rows`` is rectangular; see `apply_experts`.

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
            # Stacked from slices: their gradient adds up in a fixed order, and no index has to
            # be copied to a GPU.
            weights = tuple(
                torch.stack([held[i] for i in self._served])
                for held in (weight.unbind(0) for weight in weights)
            )
        return apply_experts(rows, counts, weights, activate=self._activate, backend=self.backend)

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation_fn is F.relu:
            hidden = hidden.relu_()  # its gradient needs only the output, and nobody else reads it
        else:
            hidden = self.activation_fn(hidden)
        return F.dropout(hidden, self.activation_dropout, self.training)


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
