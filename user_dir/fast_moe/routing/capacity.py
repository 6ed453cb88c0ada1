"""How many tokens of one rank an expert takes at most."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from user_dir.fast_moe.layout.reach import Reach

if TYPE_CHECKING:  # options are checked without torch
    from user_dir.fast_moe.tokens.ranked import Sizes


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

    def slots_in_reach(
        self,
        reach: Reach,
        sizes: "Sizes",
        *,
        num_experts: int,
        training: bool,
        by_quota: bool,
        any_number: bool,
        on_cpu: bool,
    ) -> int | None:
        """Slots of an expert for one rank's tokens of a reach; None: as many as it takes.

        Args:
            num_experts: in reach.
            by_quota: not all tokens of a rank may have that reach, but its quota.
            any_number: or whatever tokens reach a threshold.
        """
        stays = reach is Reach.LOCAL
        all_may_stay = stays and by_quota and any_number
        all_count = not by_quota or (all_may_stay and self.by_expert)
        largest = sizes.num_tokens if all_count else sizes.largest_quotas[reach]
        slots = self.slots(largest, num_experts, training=training)
        if slots is None or not stays or self.by_expert:
            return slots
        if all_may_stay:
            return None
        # What stays on its rank is never dropped: a slot for every token wastes nothing where
        # a token goes to all the rank's experts; with more experts exact counts are cheaper, on a
        # GPU with more than twice as many: one batched product is faster than a grouped one
        # (reasoned, not measured).
        waste = 1 if on_cpu else 2
        return max(1, largest) if num_experts <= waste * self.top_k else None

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
