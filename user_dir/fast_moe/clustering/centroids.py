"""Clusters by online spherical k-means: a token joins the centroid whose direction is its own.

Shape suffixes: V hosted ranks, T tokens, G groups, D width.
"""

import time

import torch
from torch import Tensor

from user_dir.fast_moe.clustering.assignment import Assignment, ClusterGate
from user_dir.fast_moe.clustering.balance_gate import GroupPrices
from user_dir.fast_moe.clustering.token_table import TokenTable
from user_dir.fast_moe.routing.assignment import balanced_groups
from user_dir.fast_moe.running_state import RunningState, move_mean
from user_dir.fast_moe.tokens.ranked import RankedTokens, parts_by_step

CENTROID_DECAY, MEAN_DECAY = 0.95, 0.99


class Centroids(RunningState):
    """Directions of the groups' tokens, relative to the mean of all tokens.

    They begin as those of a table's groups, and serve after `warmup` updates.
    """

    running_centroid_GD: Tensor
    running_weight_GD: Tensor
    running_mean_D: Tensor
    running_mean_weight_D: Tensor
    running_updates: Tensor

    def __init__(self, *, num_groups: int, dim: int, warmup: int):
        super().__init__()
        self.num_groups, self.dim, self.warmup = num_groups, dim, warmup
        self.num_sums = num_groups * (dim + 1) + dim + 1
        self.register_buffer("running_centroid_GD", torch.zeros(num_groups, dim))
        self.register_buffer("running_weight_GD", torch.zeros(num_groups, dim))
        self.register_buffer("running_mean_D", torch.zeros(dim))
        self.register_buffer("running_mean_weight_D", torch.zeros(dim))
        self.register_buffer("running_updates", torch.zeros((), dtype=torch.int64))
        self._updates_on_host: int | None = 0  # None: only the device knows

    @property
    def is_warm(self) -> bool:
        """Whether the centroids serve."""
        if self._updates_on_host is None:
            self._updates_on_host = int(self.running_updates)
        return self._updates_on_host >= self.warmup

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._updates_on_host = None

    def scores(self, x_VTD: Tensor) -> Tensor:
        """Cosines with the centroids, (V, T, G), without a gradient."""
        unit_VTD = self._unit(x_VTD)
        return unit_VTD @ torch.nn.functional.normalize(self.running_centroid_GD, dim=1).T.to(
            unit_VTD
        )

    def see(self, x_VTD: Tensor, group_VT: Tensor, tokens: RankedTokens) -> None:
        """Learn from the groups that a pass in training gave its tokens."""
        unit_VTD = self._unit(x_VTD)
        is_real_VT1 = (~tokens.is_pad_VT).unsqueeze(-1)
        rows_MD = (unit_VTD * is_real_VT1).flatten(0, 1).double()
        group_M = torch.where(tokens.is_pad_VT, self.num_groups, group_VT).flatten()
        sums_GD = rows_MD.new_zeros(self.num_groups + 1, self.dim).index_add(0, group_M, rows_MD)
        counts_G = rows_MD.new_zeros(self.num_groups + 1)
        counts_G = counts_G.index_add(0, group_M, torch.ones_like(group_M, dtype=torch.float64))
        sum_D = (x_VTD.detach() * is_real_VT1).flatten(0, 1).sum(0).double()
        parts = [sums_GD[:-1].flatten(), counts_G[:-1], sum_D, is_real_VT1.sum().view(1).double()]
        self.leave(torch.cat(parts), tokens.micro_batch)

    def move(self, sums: Tensor) -> None:
        sizes = [self.num_groups * self.dim, self.num_groups, self.dim, 1]
        sums_GD, counts_G, sum_D, count = sums.split(sizes)
        new_GD = torch.nn.functional.normalize(sums_GD.view(self.num_groups, self.dim), dim=1)
        is_new_GD = (counts_G > 0).unsqueeze(-1).expand_as(new_GD)
        move_mean(
            self.running_centroid_GD,
            self.running_weight_GD,
            new_GD.to(self.running_centroid_GD),
            is_new=is_new_GD,
            decay=CENTROID_DECAY,
        )
        new_D = (sum_D / count.clamp(min=1)).to(self.running_mean_D)
        is_new_D = (count > 0).expand_as(new_D)
        move_mean(
            self.running_mean_D,
            self.running_mean_weight_D,
            new_D,
            is_new=is_new_D,
            decay=MEAN_DECAY,
        )
        self.running_updates += 1
        self._updates_on_host = None if self._updates_on_host is None else self._updates_on_host + 1

    def _unit(self, x_VTD: Tensor) -> Tensor:
        x_VTD = x_VTD.detach()
        x_VTD = x_VTD.to(torch.promote_types(x_VTD.dtype, torch.float32))
        return torch.nn.functional.normalize(x_VTD - self.running_mean_D.to(x_VTD), dim=-1)


class CentroidGate(ClusterGate):
    """Tokens by the table at first, then by centroids: balanced in training, by prices else.

    Where a group has several experts, the table says which of them serves a token.
    """

    def __init__(self, table: TokenTable, *, dim: int, warmup: int, balances_at_evaluation: bool):
        super().__init__()
        self.table = table
        self.num_groups = table.num_groups
        self.centroids = Centroids(num_groups=self.num_groups, dim=dim, warmup=warmup)
        self.prices = GroupPrices(self.num_groups)
        self.balances_at_evaluation = balances_at_evaluation

    def assign(self, x_VTD: Tensor, tokens: RankedTokens, *, by_step: bool) -> Assignment:
        """See `ClusterGate.assign`."""
        assignment = self.table.assign(x_VTD, tokens)
        if self.centroids.is_warm:
            assignment = self._assign_by_centroids(x_VTD, tokens, assignment, by_step=by_step)
        if self.training:
            self.centroids.see(x_VTD, assignment.group_VT, tokens)
        return assignment

    def _assign_by_centroids(
        self, x_VTD: Tensor, tokens: RankedTokens, by_table: Assignment, *, by_step: bool
    ) -> Assignment:
        start = time.perf_counter()
        scores_VTG = self.centroids.scores(x_VTD)
        if self.training or self.balances_at_evaluation:
            part_VT, num_parts = -tokens.is_pad_VT.long(), 1
            if by_step and not self.training:
                part_VT, num_parts = parts_by_step(tokens)
            group_VT = balanced_groups(scores_VTG, part_VT, num_parts=num_parts)
        else:
            group_VT = (scores_VTG - self.prices.running_price_G.to(scores_VTG)).argmax(dim=-1)
            group_VT = group_VT.masked_fill(tokens.is_pad_VT, -1)
        if self.training:
            self.prices.see(scores_VTG, group_VT, tokens)
        per_group = self.table.num_experts // self.num_groups
        expert_VT = group_VT * per_group + by_table.expert_VT % per_group
        return Assignment(
            expert_VT=expert_VT.masked_fill(tokens.is_pad_VT, -1),
            group_VT=group_VT,
            seconds=time.perf_counter() - start,
        )
