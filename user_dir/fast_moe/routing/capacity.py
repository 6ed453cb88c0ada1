"""How many tokens of one rank an expert takes at most."""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class CapacityRule:
    """Slots that an expert offers to one rank's tokens, in training and at evaluation.

    Args:
        by_expert: experts choose tokens, and fill their slots.
    """

    top_k: int
    factor: float
    evaluation_fraction: float
    by_expert: bool = False

    def slots(self, num_tokens: int, num_experts: int, *, training: bool) -> int | None:
        """C for that many tokens and experts in reach; None: dropless."""
        if not training and self.evaluation_fraction >= 0:
            if self.evaluation_fraction == 0:
                return None
            return evaluation_capacity(num_tokens, fraction=self.evaluation_fraction)
        if self.factor == 0:
            return None
        if self.by_expert:
            return max(1, math.ceil(self.share(num_experts) * num_tokens))
        top_k = min(self.top_k, num_experts)
        return expert_capacity(num_tokens, num_experts, top_k=top_k, factor=self.factor)

    def share(self, num_experts: int) -> Fraction:
        """Of a rank's tokens, what each of the experts in reach takes where they choose."""
        top_k = min(self.top_k, num_experts)
        return min(Fraction(1), top_k * Fraction(str(self.factor)) / num_experts)


def expert_capacity(num_tokens: int, num_experts: int, *, top_k: int, factor: float) -> int:
    """Slots that each expert offers to one rank's tokens (GShard, algorithm 1); at least 1.

    ``factor`` is taken as the decimal that the user wrote, so that 1.1 · 10 is 11.
    """
    even_share = -(-num_tokens // num_experts)
    return max(1, math.floor(top_k * even_share * Fraction(str(factor))))


def evaluation_capacity(num_tokens: int, *, fraction: float) -> int:
    """Slots of an expert at evaluation: that share of a rank's tokens, rounded up; at least 1."""
    return max(1, math.ceil(num_tokens * Fraction(str(fraction))))
