"""Clusters by token, language and centroid as plain loops over tokens."""

import torch
from torch import Tensor

from tests.support.assignments import best_balanced
from tests.support.stack_cases import PAD, StackCase
from user_dir.fast_moe.clustering.tables import UNIT

GATE = "clustering.moe.gate"


class KeyOracle:
    """Where each token of a rank goes.

    Args:
        weights: parameters and buffers of the stack.
    """

    def __init__(self, case: StackCase, weights: dict[str, Tensor], num_groups: int):
        self.case, self.weights, self.num_groups = case, weights, num_groups
        self.per_group = case.config.num_experts // num_groups

    def sort(self, x_TD: Tensor, rank: int) -> tuple[list[int], list[int], Tensor]:
        """The expert of each token, the tokens in the order of these, and their rows so sorted."""
        experts = self.by_table(rank)
        if self.case.config.cluster_by == "kmeans" and self.case.is_learned:
            experts = [
                group * self.per_group + expert % self.per_group
                for group, expert in zip(self.by_centroid(x_TD.detach()), experts, strict=True)
            ]
        order = sorted(range(len(x_TD)), key=lambda t: experts[t])
        return experts, order, x_TD[order]

    def by_table(self, rank: int) -> list[int]:
        table = f"{GATE}.table" if self.case.config.cluster_by == "kmeans" else GATE
        start = self.weights[f"{table}.start_K"].tolist()
        length = self.weights[f"{table}.length_K"].tolist()
        experts = []
        for sentence in self.case.ids_of_rank[rank]:
            for before, token in zip([PAD, *sentence], sentence, strict=False):
                key = sentence[0] if self.case.config.cluster_by == "language" else token
                place = start[key] + (length[key] * murmur(token, before) >> 16)
                experts.append(min(place // UNIT, self.case.config.num_experts - 1))
        return experts

    def by_centroid(self, x_TD: Tensor) -> list[int]:
        read = {
            name: self.weights[f"{GATE}.centroids.running_{name}"].double()
            for name in ("centroid_GD", "mean_D")
        }
        scores = torch.zeros(len(x_TD), self.num_groups, dtype=torch.float64)
        for t, x_D in enumerate(x_TD):
            direction = x_D - read["mean_D"]
            for g, centroid_D in enumerate(read["centroid_GD"]):
                cosine = (direction * centroid_D).sum() / direction.norm() / centroid_D.norm()
                scores[t, g] = cosine
        if self.case.training:
            return [int(g) for g in best_balanced(scores.numpy())]
        prices_G = self.weights[f"{GATE}.prices.running_price_G"].double()
        return [int((s - prices_G).argmax()) for s in scores]


def murmur(token: int, before: int) -> int:
    """16 bits of MurmurHash3's finaliser."""
    mixed = (token * 0x9E3779B1 + before * 0x85EBCA77) % 2**32
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 % 2**32
    return (mixed ^ mixed >> 16) >> 16
