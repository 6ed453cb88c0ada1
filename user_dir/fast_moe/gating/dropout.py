"""Gating dropout: in some updates no token leaves its rank (Liu et al., ICML 2022)."""

from dataclasses import dataclass

from user_dir.fast_moe.tokens.noise import NoiseKey


@dataclass(frozen=True)
class GatingDropout:
    """In which updates tokens stay.

    Args:
        share: of the updates.
        skips: tokens see no expert at all then, instead of those of their rank.
    """

    share: float = 0.0
    skips: bool = False

    def is_on(self, key: NoiseKey | None) -> bool:
        """Whether tokens stay in this pass: the same on all ranks, for a whole update.

        Args:
            key: of a pass in training; None at evaluation, where tokens never stay.
        """
        return key is not None and self.share > 0 and key.draw("gating dropout") < self.share
