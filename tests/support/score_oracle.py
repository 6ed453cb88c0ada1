"""Clusters by learned scores, the paper's, as plain loops over tokens."""

import numpy as np
import torch
from torch import Tensor

from tests.support.assignments import best_balanced
from tests.support.stack_cases import StackCase


class ScoreOracle:
    """Where each token of a rank goes, and the sorted tokens with their soft gradients.

    Args:
        weights: the tensors of the stack's state dictionary.
    """

    def __init__(self, case: StackCase, weights: dict[str, Tensor], num_groups: int):
        self.case, self.weights, self.num_groups = case, weights, num_groups

    def sort(self, x_TD: Tensor, rank: int) -> tuple[list[int], list[int], Tensor]:
        """The expert of each token, the tokens in the order of these, and their rows so sorted."""
        detach = self.case.stack == "decoder" and self.case.training
        weight_ED = self.weights["clustering.moe.gate.weight"]
        scores_TE = (x_TD.detach() if detach else x_TD) @ weight_ED.T
        scores_TG = self.group_scores(scores_TE)
        groups, experts = self.assign(scores_TE.detach(), scores_TG.detach(), rank)
        order = sorted(range(len(x_TD)), key=lambda t: experts[t])
        return experts, order, self.permute(x_TD, scores_TG, groups, order)

    def group_scores(self, scores_TE: Tensor) -> Tensor:
        """The mean over a group's experts."""
        size = scores_TE.shape[1] // self.num_groups
        columns = [scores_TE[:, g * size : (g + 1) * size].mean(1) for g in range(self.num_groups)]
        return torch.stack(columns, dim=1)

    def assign(self, scores_TE: Tensor, scores_TG: Tensor, rank: int):
        """The group and the expert of each of a rank's tokens."""
        num_tokens, num_groups = scores_TG.shape
        size = self.case.config.num_experts // num_groups
        if not self.case.training and self.case.config.inference_routing == "greedy":
            prices_G = self.weights["clustering.moe.gate.prices.running_price_G"]
            groups = [int((s - prices_G).argmax()) for s in scores_TG]
            experts = [
                g * size + int(s[g * size : (g + 1) * size].argmax())
                for g, s in zip(groups, scores_TE, strict=True)
            ]
            return groups, experts
        parts = [list(range(num_tokens))]
        if self.case.stack == "decoder" and not self.case.training:
            steps = [s for n in self.case.lengths[rank] for s in range(n)]
            parts = [[t for t in parts[0] if steps[t] == s] for s in sorted(set(steps))]
        groups, experts = [0] * num_tokens, [0] * num_tokens
        for part in parts:
            for t, g in zip(part, best_balanced(scores_TG[part].numpy()), strict=True):
                groups[t] = int(g)
            for g in range(num_groups):
                members = [t for t in part if groups[t] == g]
                for i, chunk in enumerate(np.array_split(members, size)):
                    for t in chunk:
                        experts[t] = g * size + i
        return groups, experts

    def permute(
        self, x_TD: Tensor, scores_TG: Tensor, groups: list[int], order: list[int]
    ) -> Tensor:
        """P · x with a T x T matrix, hard in value, soft in its gradient."""
        num_tokens = len(x_TD)
        hard = torch.zeros(num_tokens, num_tokens, dtype=x_TD.dtype)
        for place, t in enumerate(order):
            hard[place, t] = 1
        if self.case.config.gate_type != "softmax":
            return hard @ x_TD
        rows = [
            (scores_TG[:, groups[t]] / self.case.config.temperature).softmax(0)
            / groups.count(groups[t])
            for t in order
        ]
        soft = torch.stack(rows) if rows else hard
        return (hard + soft - soft.detach()) @ x_TD
