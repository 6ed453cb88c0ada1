"""What a gate that clusters tokens decides, and what it is told.

Shape suffixes: V hosted ranks, T tokens, G groups, D width, M rows.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from user_dir.fast_moe.tokens.ranked import RankedTokens


@dataclass(frozen=True)
class Assignment:
    """Where every token goes."""

    expert_VT: Tensor  # -1: padding
    group_VT: Tensor  # -1: padding
    seconds: float = 0.0  # that balancing took, on a CPU
    scores_VTG: Tensor | None = None  # that learn through the sorting, if any do


class ClusterGate(nn.Module, ABC):
    """Decides which expert's cluster each token joins."""

    num_groups: int
    learns_by_weight = False  # through what the output of a token's expert counts

    @abstractmethod
    def assign(self, x_VTD: Tensor, tokens: RankedTokens, *, by_step: bool) -> Assignment:
        """Give every real token its group and the expert there.

        Args:
            by_step: where tokens of evaluation are balanced, balance those of each position of
                the sentences among themselves, as decoding sees them.
        """

    def mixing_weight(self, x_MD: Tensor, expert_M: Tensor) -> Tensor:
        """What the output of its expert counts for each row, (M,), where the gate learns by it."""
        raise NotImplementedError
