"""Random numbers for routing that depend neither on the processes nor on recomputation."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_DIGEST_BYTES = 7


@dataclass(frozen=True)
class NoiseKey:
    """What a forward pass draws its routing noise from."""

    seed: int
    update: int
    micro_batch: int

    def draw(self, name: str) -> float:
        """A number from [0, 1) for the whole update, the same on all ranks."""
        return _digest(f"{self.seed}/{self.update}/{name}") / 2 ** (8 * _DIGEST_BYTES)

    def of_layer(self, layer: str, ranks: range, device: torch.device) -> "RoutingNoise":
        """The noise of one layer: a generator for each logical rank, named by all five parts."""
        return RoutingNoise(
            tuple(
                _digest(f"{self.seed}/{self.update}/{self.micro_batch}/{layer}/{rank}")
                for rank in ranks
            ),
            device,
        )


@dataclass(frozen=True)
class RoutingNoise:
    """Draws for one layer and the ranks of this process; every call draws the same again."""

    seeds: tuple[int, ...]
    device: torch.device

    def uniform(self, shape_VT: torch.Size) -> Tensor:
        """Uniform numbers in [0, 1), each rank's from its own generator."""
        rows = [
            torch.rand(
                shape_VT[1:],
                generator=torch.Generator(self.device).manual_seed(seed),
                device=self.device,
            )
            for seed in self.seeds
        ]
        return torch.stack(rows)

    def gumbel(self, shape_VTE: torch.Size) -> Tensor:
        """Standard Gumbel numbers: argmax of scores plus these samples from their softmax."""
        uniform = self.uniform(shape_VTE).clamp(min=1e-9)
        return -(-uniform.log()).clamp(min=1e-9).log()


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=_DIGEST_BYTES).digest(), "big")
