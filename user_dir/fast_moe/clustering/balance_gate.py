"""BalanceGate: learned scores, and equally many tokens for every group.

Zeng and Xiong (2023), section 3.3. Shape suffixes: V hosted ranks, T tokens, E experts, G groups,
L lists, D width, M rows.
"""

import time

import torch
from torch import Tensor, nn

from user_dir.fast_moe.clustering.assignment import Assignment, ClusterGate
from user_dir.fast_moe.clustering.prices import assignment_prices
from user_dir.fast_moe.routing.assignment import balanced_groups
from user_dir.fast_moe.routing.slots import count_by_expert
from user_dir.fast_moe.running_state import RunningState, move_mean
from user_dir.fast_moe.tokens.ranked import RankedTokens, parts_by_step

PRICE_DECAY = 0.99


class GroupPrices(RunningState):
    """Running means of the groups' prices in the balanced assignments of training.

    A token that pays them joins about as balanced groups as in training without looking at others.
    """

    running_price_G: Tensor
    running_weight_G: Tensor

    def __init__(self, num_groups: int):
        super().__init__()
        self.num_sums = num_groups + 1
        self.register_buffer("running_price_G", torch.zeros(num_groups))
        self.register_buffer("running_weight_G", torch.zeros(num_groups))

    def see(self, scores_VTG: Tensor, group_VT: Tensor, tokens: RankedTokens) -> None:
        """Learn from a balanced assignment."""
        has_tokens_V = ~tokens.is_pad_VT.all(dim=1)
        prices_VG = assignment_prices(scores_VTG, group_VT) * has_tokens_V.unsqueeze(-1)
        sums = torch.cat([prices_VG.sum(0), has_tokens_V.sum().view(1).to(prices_VG)])
        self.leave(sums, tokens.micro_batch)

    def move(self, sums: Tensor) -> None:
        count = sums[-1]
        new_G = (sums[:-1] / count.clamp(min=1)).to(self.running_price_G)
        is_new_G = (count > 0).expand_as(new_G)
        move_mean(
            self.running_price_G, self.running_weight_G, new_G, is_new=is_new_G, decay=PRICE_DECAY
        )


class BalanceGate(ClusterGate):
    """Clusters tokens: those with like scores go to one group, and groups are equally large.

    Args:
        num_groups: as many as experts, or as nodes; a node's score is the mean of its experts',
            and its tokens are cut evenly among them.
        temperature: of the softmax that scores learn through; None: they learn through the weight
            of the expert's output.
        balances_at_evaluation: balance groups over the batch then, too, instead of giving each
            token its best one.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_experts: int,
        num_groups: int,
        use_fp32: bool = False,
        temperature: float | None = 0.5,
        balances_at_evaluation: bool = False,
    ):
        super().__init__()
        assert num_experts % num_groups == 0
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        nn.init.orthogonal_(self.weight, gain=0.1)
        self.prices = GroupPrices(num_groups)
        self.num_groups = num_groups
        self.use_fp32 = use_fp32
        self.temperature = temperature
        self.learns_by_weight = temperature is None
        self.balances_at_evaluation = balances_at_evaluation

    @property
    def num_experts(self) -> int:
        return self.weight.shape[0]

    def assign(self, x_VTD: Tensor, tokens: RankedTokens, *, by_step: bool) -> Assignment:
        """Balanced groups in training; at evaluation, as told."""
        scores_VTE = self.expert_scores(x_VTD)
        scores_VTG = self.group_scores(scores_VTE)
        learning_VTG = None if self.temperature is None else scores_VTG
        if not self.training and not self.balances_at_evaluation:
            expert_VT, group_VT = self._choose(scores_VTE.detach(), scores_VTG.detach())
            expert_VT, group_VT = (
                ids_VT.masked_fill(tokens.is_pad_VT, -1) for ids_VT in (expert_VT, group_VT)
            )
            return Assignment(expert_VT, group_VT, scores_VTG=learning_VTG)
        start = time.perf_counter()
        part_VT, num_parts = -tokens.is_pad_VT.long(), 1
        if by_step and not self.training:
            part_VT, num_parts = parts_by_step(tokens)
        group_VT = balanced_groups(scores_VTG.detach(), part_VT, num_parts=num_parts)
        expert_VT = self._cut_evenly(group_VT, part_VT)
        seconds = time.perf_counter() - start
        if self.training:
            self.prices.see(scores_VTG, group_VT, tokens)
        return Assignment(expert_VT, group_VT, seconds=seconds, scores_VTG=learning_VTG)

    def expert_scores(self, x_VTD: Tensor) -> Tensor:
        """Scores (V, T, E), in float32, the product included, where the gate was told so."""
        if not self.use_fp32:
            return x_VTD @ self.weight.T
        with torch.autocast(device_type=x_VTD.device.type, enabled=False):
            return x_VTD.float() @ self.weight.float().T

    def group_scores(self, scores_VTE: Tensor) -> Tensor:
        """Scores (V, T, G) of the groups."""
        return scores_VTE.unflatten(-1, (self.num_groups, -1)).mean(dim=-1)

    def mixing_weight(self, x_MD: Tensor, expert_M: Tensor) -> Tensor:
        """sigmoid(x · w_e) of each row and the expert it arrived at, (M,)."""
        return (x_MD * self.weight[expert_M].to(x_MD)).sum(dim=-1).sigmoid()

    def _choose(self, scores_VTE: Tensor, scores_VTG: Tensor) -> tuple[Tensor, Tensor]:
        """The group that each token likes most at its price, and there its best expert.

        It depends on no other token.
        """
        group_VT = (scores_VTG - self.prices.running_price_G).argmax(dim=-1)
        per_group = scores_VTE.unflatten(-1, (self.num_groups, -1))
        index = group_VT[..., None, None].expand(-1, -1, 1, per_group.shape[-1])
        best_VT = per_group.gather(2, index).squeeze(2).argmax(dim=-1)
        return group_VT * per_group.shape[-1] + best_VT, group_VT

    def _cut_evenly(self, group_VT: Tensor, part_VT: Tensor) -> Tensor:
        """The expert of each token: each group's list, in token order, cut among its experts."""
        num_tokens = group_VT.shape[1]
        per_group, num_groups = self.num_experts // self.num_groups, self.num_groups
        if per_group == 1:
            return group_VT
        # Lists of a rank are counted part by part, of which there are fewer than tokens.
        list_VT = torch.where(part_VT < 0, -1, part_VT * num_groups + group_VT)
        num_lists = num_tokens * num_groups
        list_VT = list_VT.masked_fill(part_VT < 0, num_lists)
        counts_VL = count_by_expert(list_VT, num_experts=num_lists + 1)
        order_VT = list_VT.argsort(dim=1, stable=True)
        starts_VL = counts_VL.cumsum(1) - counts_VL
        sorted_VT = list_VT.gather(1, order_VT)
        place_VT = torch.arange(num_tokens, device=list_VT.device) - starts_VL.gather(1, sorted_VT)
        # The first lists are one longer where the cut does not come out even.
        count_VT = counts_VL.gather(1, sorted_VT)
        size_VT, longer_VT = count_VT // per_group, count_VT % per_group
        in_longer_VT = longer_VT * (size_VT + 1)
        nth_VT = torch.where(
            place_VT < in_longer_VT,
            place_VT // (size_VT + 1),
            longer_VT + (place_VT - in_longer_VT) // size_VT.clamp(min=1),
        )
        nth_VT = torch.empty_like(nth_VT).scatter(1, order_VT, nth_VT)
        return torch.where(part_VT < 0, -1, group_VT * per_group + nth_VT)
