"""The shares of tokens or features that travel inside a rank, inside a node, everywhere.

α = ``--ratio1`` stays on the rank, β = ``--ratio2`` in the node, γ = 1 − α − β goes everywhere.
"""

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from user_dir.errors import UserError

# Matrix units work on multiples of this many features.
FEATURE_STEP = 8


class Reach(Enum):
    """How far a token, or a slice of its features, may travel."""

    LOCAL = "local"
    NODE = "node"
    GLOBAL = "global"


@dataclass(frozen=True)
class Shares:
    """α and β as the decimals that the user wrote, so that 0.7 + 0.3 is 1 and floors are exact."""

    local: Fraction
    node: Fraction

    @staticmethod
    def of(ratio1: float, ratio2: float) -> "Shares":
        """Raises `ValueError` that names the flag if a ratio or their sum is not in [0, 1]."""
        for flag, value in ("--ratio1", ratio1), ("--ratio2", ratio2):
            if not 0 <= value <= 1:  # neither is NaN
                nearest = "1" if value > 1 else "0"
                raise UserError(
                    f"{flag} must be a share from 0 to 1, but is {value:g}; {nearest} would do"
                )
        local, node = Fraction(str(ratio1)), Fraction(str(ratio2))
        if local + node > 1:
            raise UserError(
                f"--ratio1 ({float(local):g}) and --ratio2 ({float(node):g}) add up to more than "
                f"1; --ratio2 {float(1 - local):g} would do"
            )
        return Shares(local, node)

    @property
    def everywhere(self) -> Fraction:
        """γ, what is left for all ranks."""
        return 1 - self.local - self.node

    def on_one_node(self) -> "Shares":
        """The same where all ranks are one node: what may leave the rank may go everywhere."""
        return Shares(self.local, Fraction(0))

    def reaches(self) -> tuple[Reach, ...]:
        """The reaches with a share above 0; the same on every process."""
        by_reach = zip(Reach, (self.local, self.node, self.everywhere), strict=True)
        return tuple(reach for reach, share in by_reach if share > 0)

    def quotas(self, num_tokens: int) -> dict[Reach, int]:
        """Of that many tokens of a rank, how many have each reach."""
        local = int(self.local * num_tokens)
        rest = num_tokens - local
        node = rest if self.everywhere == 0 else int(self.node * num_tokens)
        return {Reach.LOCAL: local, Reach.NODE: node, Reach.GLOBAL: rest - node}

    def features(self, dim: int) -> dict[Reach, int]:
        """Of that many features, how many have each reach.

        Raises:
            ValueError: a slice is no whole number of eights; the message names ratios that do.
        """
        sizes = [self.local * dim, self.node * dim, self.everywhere * dim]
        if any(size % FEATURE_STEP for size in sizes):
            near = _nearest_features(sizes[0], sizes[1], dim)
            raise UserError(
                f"--ratio1 {float(self.local):g} and --ratio2 {float(self.node):g} split the model "
                f"width {dim} into {', '.join(f'{float(size):g}' for size in sizes)} features, but "
                f"each must be 0 or a multiple of {FEATURE_STEP}; --ratio1 {near[0]:g} --ratio2 "
                f"{near[1]:g} would do"
            )
        return dict(zip(Reach, map(int, sizes), strict=True))


def _nearest_features(local: Fraction, node: Fraction, dim: int) -> tuple[float, float]:
    """The nearest two ratios whose slices come out even, the rest included."""
    if dim % FEATURE_STEP:
        raise UserError(
            f"--scomoe-type feat needs a model width that is a multiple of {FEATURE_STEP}, but it "
            f"is {dim}; {max(FEATURE_STEP, round(dim / FEATURE_STEP) * FEATURE_STEP)} would do"
        )
    steps = dim // FEATURE_STEP
    # Only what can be written as a short decimal can be asked for.
    written = [i / steps for i in range(steps + 1) if Fraction(f"{i / steps:g}") * steps == i]
    wanted = float(local / dim), float(node / dim)
    return min(
        ((first, second) for first in written for second in written if first + second <= 1),
        key=lambda pair: abs(pair[0] - wanted[0]) + abs(pair[1] - wanted[1]),
    )
