"""A feed-forward network that every token passes beside its experts.

Alone (DeepSeekMoE, Dai et al., 2024) it is added to them; under conditional routing (NLLB Team,
2022) a gate mixes it with them. Shape suffixes: V hosted ranks, T tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.tokens.noise import RoutingNoise


@dataclass(frozen=True)
class MixtureUse:
    """How much the tokens of this process use their mixture instead of the shared network."""

    share_sum: Tensor  # Σ a over real tokens, with a gradient
    num_tokens: Tensor
    budget: float  # what Σ a / tokens is drawn to
    weight: float  # of the loss on the distance from it


@dataclass(frozen=True)
class MixingGate:
    """How conditional routing mixes a mixture with the shared network.

    Args:
        dropout: of a, in training.
        budget: share of the mixture over all tokens.
        weight: of the loss |Σ a / tokens − budget|.
    """

    dropout: float
    budget: float
    weight: float


class SharedExpert(nn.Module):
    """y = routed + FFN(x); with a gate y = a · routed + (1 − a) · FFN(x), a = sigmoid(w·x + c).

    Args:
        mixing: None: no gate.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        activation_fn: Callable[[Tensor], Tensor],
        activation_dropout: float = 0.0,
        mixing: MixingGate | None = None,
    ):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation_fn = activation_fn
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.mixing = mixing
        self.gate = nn.Linear(dim, 1) if mixing is not None else None

    def forward(
        self, x_VTD: Tensor, routed_VTD: Tensor, is_pad_VT: Tensor, noise: RoutingNoise | None
    ) -> tuple[Tensor, MixtureUse | None]:
        """Add the shared network's output, or mix it in; 0 at padding.

        Args:
            noise: that dropout of the gate is drawn from; None at evaluation.
        """
        hidden = self.activation_dropout(self.activation_fn(self.fc1(x_VTD)))
        shared_VTD = self.fc2(hidden)
        use = None
        if self.gate is None or self.mixing is None:
            y_VTD = routed_VTD + shared_VTD
        else:
            share_VT1 = self.gate(x_VTD).sigmoid()
            if noise is not None and self.mixing.dropout:
                is_kept_VT = noise.uniform(is_pad_VT.shape) >= self.mixing.dropout
                share_VT1 = share_VT1 * is_kept_VT.unsqueeze(-1) / (1 - self.mixing.dropout)
            y_VTD = share_VT1 * routed_VTD + (1 - share_VT1) * shared_VTD
            shares_VT = share_VT1.squeeze(-1).masked_fill(is_pad_VT, 0)
            shares_VT = shares_VT.to(torch.promote_types(shares_VT.dtype, torch.float32))
            mixing = self.mixing
            use = MixtureUse(shares_VT.sum(), (~is_pad_VT).sum(), mixing.budget, mixing.weight)
        return y_VTD.masked_fill(is_pad_VT.unsqueeze(-1), 0), use


def budget_loss(uses: Sequence[MixtureUse], size: Tensor) -> tuple[Tensor, Tensor]:
    """|Σ a / tokens − budget| over the layers and tokens of all ranks. A collective.

    Its gradient is that of this process's shares.

    Args:
        size: of this process's sample.

    Returns:
        the loss, and the sample size of all processes.
    """
    share = torch.stack([use.share_sum for use in uses]).sum()
    count = torch.stack([use.num_tokens for use in uses]).sum()
    of_all = torch.stack([share.detach().double(), count.double(), size.double()])
    if running_processes()[1] > 1:
        dist.all_reduce(of_all)
    share = of_all[0] + (share - share.detach())
    loss = (share / of_all[1].clamp(min=1) - uses[0].budget).abs()
    return loss.float(), of_all[2].float()
