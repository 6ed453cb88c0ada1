"""Balance without a loss: a bias for every expert that only choices see.

DeepSeek-V3; Wang et al. (2024), "Auxiliary-loss-free load balancing strategy for
mixture-of-experts". Shape suffixes: V hosted ranks, E experts.
"""

import torch
from torch import Tensor

from user_dir.fast_moe.running_state import RunningState


class ExpertBias(RunningState):
    """b_e, moved after each update by the sign of how far the load of all ranks is from even.

    Args:
        step: u in b_e += u · sign(mean load − load_e).
    """

    running_bias_E: Tensor

    def __init__(self, num_experts: int, *, step: float):
        super().__init__()
        self.num_sums, self.step = num_experts, step
        self.register_buffer("running_bias_E", torch.zeros(num_experts))

    def of(self, experts_VE: Tensor) -> Tensor:
        """The biases of some experts, in the shape that a gate adds them in, (V, 1, E)."""
        return self.running_bias_E[experts_VE].unsqueeze(1)

    def move(self, sums: Tensor) -> None:
        self.running_bias_E += self.step * (sums.mean() - sums).sign().to(self.running_bias_E)
