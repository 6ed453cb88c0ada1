"""How far each token may travel: SCoMoE-Seq's partition of a rank's tokens.

Zeng and Xiong (2023), section 3.1, divide a rank's tokens by comparing them with each other. A
threshold, the running quantile of their scores, decides on each token alone. Shape suffixes: V
hosted ranks, R ranks, T tokens, E experts, K the reaches LOCAL and NODE.
"""

import logging

import torch
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.running_state import RunningState, move_mean
from user_dir.fast_moe.tokens.quantiles import best_first, upper_quantile
from user_dir.fast_moe.tokens.ranked import RankedTokens

logger = logging.getLogger(__name__)

REACH_IDS = {reach: index for index, reach in enumerate(Reach)}
_NEAR = (Reach.LOCAL, Reach.NODE)
_DECAY = 0.99


class TokenPartition(RunningState):
    """Gives every real token its reach: those that like their own rank's experts best stay there.

    By quota, LOCAL are the ⌊α·T⌋ tokens of a rank with the highest mean score over the rank's
    experts; NODE the ⌊β·T⌋ of the rest with the highest mean score over the node's (all of the
    rest if α + β is 1); GLOBAL what remains. Ties by token index. By threshold, LOCAL is a token
    whose score reaches the rank's running (1 − α)-quantile of such scores, NODE one of the rest
    that reaches the (1 − β/(1 − α))-quantile of the rest; while there is none yet, quotas serve in
    training, and at evaluation everything is GLOBAL.

    Args:
        training, inference: "quota" or "threshold".
    """

    running_threshold_RK: Tensor
    running_weight_RK: Tensor
    running_share_K: Tensor

    def __init__(
        self, topology: Topology, shares: Shares, *, training: str = "quota", inference: str
    ):
        super().__init__()
        self.topology, self.shares = topology, shares
        self.by_threshold = {True: training == "threshold", False: inference == "threshold"}
        rest = 1 - shares.local
        # Of the tokens that have no reach yet, the share that gets this one.
        self._shares = (float(shares.local), float(shares.node / rest) if rest else 0.0)
        self.num_sums = topology.num_ranks * 4
        self.register_buffer("running_threshold_RK", torch.zeros(topology.num_ranks, 2))
        self.register_buffer("running_weight_RK", torch.zeros(topology.num_ranks, 2))
        self.register_buffer("running_share_K", torch.tensor(self._shares))
        self._learned_with: list[float] | None = None  # other shares, in a loaded checkpoint

    def forward(self, z_VTE: Tensor, tokens: RankedTokens) -> Tensor:
        """The reaches of all tokens.

        Args:
            z_VTE: scores of all experts.

        Returns:
            (V, T) ids of `REACH_IDS`; -1 at padding.

        Raises:
            UserError: evaluation by thresholds that were learned with other ratios.
        """
        by_threshold = self.by_threshold[self.training]
        if by_threshold and not self.training:
            self._refuse_other_ratios()
        reach_VT = torch.full_like(tokens.is_pad_VT, REACH_IDS[Reach.GLOBAL], dtype=torch.int64)
        is_taken_VT = tokens.is_pad_VT
        quantiles: list[Tensor | None] = []
        for column, reach in enumerate(_NEAR):
            if self._shares[column] == 0:
                quantiles.append(None)
                continue
            if self._shares[column] == 1:
                quantiles.append(None)
                is_chosen_VT = ~is_taken_VT
            else:
                score_VT = self._scores(z_VTE, reach)
                is_chosen_VT, quantile_V2 = self._choose(
                    score_VT, is_taken_VT, tokens, column=column, by_threshold=by_threshold
                )
                quantiles.append(quantile_V2)
            reach_VT = reach_VT.masked_fill(is_chosen_VT, REACH_IDS[reach])
            is_taken_VT = is_taken_VT | is_chosen_VT
        if self.training:
            self._see(quantiles, tokens)
        return reach_VT.masked_fill(tokens.is_pad_VT, -1)

    def move(self, sums: Tensor) -> None:
        total_RK, count_RK = sums.view(self.topology.num_ranks, 2, 2).unbind(-1)
        new_RK = (total_RK / count_RK.clamp(min=1)).to(self.running_threshold_RK)
        move_mean(
            self.running_threshold_RK,
            self.running_weight_RK,
            new_RK,
            is_new=count_RK > 0,
            decay=_DECAY,
        )

    def _scores(self, z_VTE: Tensor, reach: Reach) -> Tensor:
        experts_VE = self.topology.experts_in(reach, z_VTE.device)
        return select_experts(z_VTE.detach(), experts_VE).mean(dim=-1)

    def _choose(
        self,
        score_VT: Tensor,
        is_taken_VT: Tensor,
        tokens: RankedTokens,
        *,
        column: int,
        by_threshold: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Which of the free tokens get a reach, and in training the quantile of their scores."""
        if by_threshold:
            ranks = self.topology.hosted_ranks
            place = slice(ranks.start, ranks.stop)
            is_known_V1 = self.running_weight_RK[place, column, None] > 0
            threshold_V1 = self.running_threshold_RK[place, column, None].to(score_VT)
            is_above_VT = (score_VT >= threshold_V1) & is_known_V1 & ~is_taken_VT
            if not self.training:
                return is_above_VT, None
        order_VT = best_first(score_VT, is_taken_VT)
        quantile_V2 = None
        if self.training:
            sorted_VT = score_VT.gather(1, order_VT)
            quantile_V2 = upper_quantile(sorted_VT, is_taken_VT, share=self._shares[column])
        places_T = torch.arange(score_VT.shape[1], device=score_VT.device)
        is_within_VT = places_T < tokens.quotas_VR[:, REACH_IDS[_NEAR[column]], None]
        is_best_VT = torch.zeros_like(is_taken_VT).scatter(-1, order_VT, is_within_VT)
        if by_threshold:
            return torch.where(is_known_V1, is_above_VT, is_best_VT), quantile_V2
        return is_best_VT, quantile_V2

    def _see(self, quantiles: list[Tensor | None], tokens: RankedTokens) -> None:
        if all(one is None for one in quantiles):
            return
        ranks = self.topology.hosted_ranks
        sums = tokens.quotas_VR.new_zeros(self.topology.num_ranks, 2, 2, dtype=torch.float64)
        for column, quantile_V2 in enumerate(quantiles):
            if quantile_V2 is not None:
                sums[ranks.start : ranks.stop, column] = quantile_V2
        self.leave(sums.flatten(), tokens.micro_batch)

    def _load_from_state_dict(self, *args, **kwargs):
        own = self.running_share_K.clone()
        super()._load_from_state_dict(*args, **kwargs)
        if not torch.allclose(own, self.running_share_K):
            self._learned_with = self.running_share_K.tolist()
            self.running_share_K.copy_(own)
            self.running_weight_RK.zero_()  # training learns them anew

    def _refuse_other_ratios(self) -> None:
        if self._learned_with is None or not any(self._shares):
            return
        local, node = self._learned_with
        raise UserError(
            f"the thresholds of the checkpoint were learned with --ratio1 {local:.6g} --ratio2 "
            f"{node * (1 - local):.6g}; leave the ratios as they were trained, give 0 for both, or "
            "--scomoe-inference-partition quota"
        )


def select_experts(z_VTE: Tensor, experts_VR: Tensor) -> Tensor:
    """The scores (V, T, experts in reach) of each hosted rank's own choice of experts."""
    num_tokens = z_VTE.shape[1]
    index = experts_VR.unsqueeze(1).expand(-1, num_tokens, -1)
    return z_VTE.gather(-1, index)
