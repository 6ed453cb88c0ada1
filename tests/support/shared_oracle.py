"""What stands beside the experts, and NLLB's masks of their outputs, as plain tensors of a rank."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.stack_cases import StackCase


class SharedOracle:
    """The shared network of a layer, and what masks leave of weights.

    Args:
        weights: the tensors of the stack's state dictionary.
    """

    def __init__(self, case: StackCase, weights: dict[str, Tensor]):
        self.case, self.weights = case, weights
        self.num_ranks = case.layout[0] * case.layout[1]

    @property
    def longest(self) -> int:
        return max(self.case.tokens_of_rank)

    def scales(self, name: str, rank: int, num_choices: int) -> Tensor:
        """What is left of the weights of a rank's tokens under NLLB's masks."""
        options, key = self.case.config.shared, self.case.noise_key
        # Clustered tokens may be more on a rank than came from it.
        scale_TK = torch.ones(sum(self.case.tokens_of_rank), num_choices, dtype=torch.float64)
        shares = {"expert masking": options.expert_masking, "final masking": options.final_masking}
        for what, share in shares.items():
            if not share:
                continue
            if key is None:
                scale_TK = scale_TK * (1 - share)
                continue
            noise = key.of_layer(f"{name}/{what}", range(self.num_ranks), torch.device("cpu"))
            shape = (self.num_ranks, self.longest, num_choices)
            if what == "final masking":
                shape = shape[:2]
            drawn = noise.uniform(torch.Size(shape))[rank]
            is_kept = (drawn >= share).double()
            is_kept = is_kept if is_kept.dim() == 2 else is_kept.unsqueeze(-1)
            scale_TK[: self.longest] *= is_kept
        return scale_TK

    def add(self, x_TD: Tensor, y_TD: Tensor, layer: str, name: str, rank: int) -> Tensor:
        """Add the shared network's output, or mix it in."""
        w, key = self.weights, self.case.noise_key
        prefix = f"{layer}.moe.shared"
        if f"{prefix}.fc1.weight" not in w:
            return y_TD
        hidden = F.linear(x_TD, w[f"{prefix}.fc1.weight"], w[f"{prefix}.fc1.bias"]).relu()
        shared_TD = F.linear(hidden, w[f"{prefix}.fc2.weight"], w[f"{prefix}.fc2.bias"])
        if f"{prefix}.gate.weight" not in w:
            return y_TD + shared_TD
        share_T1 = F.linear(x_TD, w[f"{prefix}.gate.weight"], w[f"{prefix}.gate.bias"]).sigmoid()
        dropout = self.case.config.shared.gate_dropout
        if key is not None and dropout:
            noise = key.of_layer(f"{name}/mixing", range(self.num_ranks), torch.device("cpu"))
            drawn = noise.uniform(torch.Size((self.num_ranks, self.longest)))[rank][: len(x_TD)]
            share_T1 = share_T1 * (drawn >= dropout).double().unsqueeze(-1) / (1 - dropout)
        return share_T1 * y_TD + (1 - share_T1) * shared_TD
