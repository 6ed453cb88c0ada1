"""Masks of experts' outputs in training: NLLB's regularisers (NLLB Team, 2022, section 6).

Shape suffixes: V hosted ranks, T tokens, K choices.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.routing.slots import Routing
from user_dir.fast_moe.tokens.noise import NoiseKey


@dataclass(frozen=True)
class OutputMasking:
    """How often outputs are taken for 0 in training; at evaluation they are scaled instead.

    Args:
        expert: share of a token's experts whose output is masked (expert output masking).
        final: share of tokens whose combined output is (final output masking).
    """

    expert: float = 0.0
    final: float = 0.0

    def apply(
        self, routing: Routing, key: NoiseKey | None, *, layer: str, topology: Topology
    ) -> Routing:
        """The routing with the weights that are left.

        Args:
            key: of a pass in training; None at evaluation.
            layer: tells the draws of layers apart.
        """
        weights_VTK = routing.weights_VTK
        if key is None:
            weights_VTK = weights_VTK * ((1 - self.expert) * (1 - self.final))
            return replace(routing, weights_VTK=weights_VTK)
        for share, name, shape in (
            (self.expert, "expert masking", weights_VTK.shape),
            (self.final, "final masking", weights_VTK.shape[:2]),
        ):
            if share:
                noise = key.of_layer(f"{layer}/{name}", topology.hosted_ranks, weights_VTK.device)
                is_masked = noise.uniform(torch.Size(shape)) < share
                weights_VTK = weights_VTK.masked_fill(_as_choices(is_masked), 0)
        return replace(routing, weights_VTK=weights_VTK)

    @property
    def is_on(self) -> bool:
        """Whether there is anything to do."""
        return self.expert > 0 or self.final > 0


def _as_choices(is_masked: Tensor) -> Tensor:
    return is_masked if is_masked.dim() == 3 else is_masked.unsqueeze(-1)
