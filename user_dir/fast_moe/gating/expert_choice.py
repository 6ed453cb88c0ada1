"""Experts that choose their tokens (Zhou et al., NeurIPS 2022), instead of tokens their experts.

Loads are even by construction, and a token may have no expert or several. Which tokens an expert
takes depends on the others of the batch, later ones of a sentence included: for encoders only. At
evaluation each token is therefore compared with what training learned instead.

Shape suffixes: V hosted ranks, T tokens, E experts in reach, N = V·E.
"""

import torch
from torch import Tensor, nn

from user_dir.fast_moe.gathers import invert_permutation
from user_dir.fast_moe.gating.gates import Gated, InReach, LinearGate
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.routing.slots import Routing, count_by_expert
from user_dir.fast_moe.running_state import RunningState, move_mean
from user_dir.fast_moe.tokens.quantiles import best_first, upper_quantile

_DECAY = 0.99


class ExpertThresholds(RunningState):
    """For each expert the running mean of the probability that its share of a rank's tokens reach.

    Args:
        num_experts: of the layer.
    """

    running_threshold_E: Tensor
    running_weight_E: Tensor

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_sums = 2 * num_experts
        self.register_buffer("running_threshold_E", torch.zeros(num_experts))
        self.register_buffer("running_weight_E", torch.zeros(num_experts))

    def see(self, quantile_N2: Tensor, experts_N: Tensor, micro_batch: int | None) -> None:
        """Let them learn from a pass in training; see `upper_quantile`."""
        sums_E2 = quantile_N2.new_zeros(self.num_sums // 2, 2)
        self.leave(sums_E2.index_add(0, experts_N, quantile_N2).flatten(), micro_batch)

    def move(self, sums: Tensor) -> None:
        total_E, count_E = sums.view(-1, 2).unbind(-1)
        new_E = (total_E / count_E.clamp(min=1)).to(self.running_threshold_E)
        move_mean(
            self.running_threshold_E,
            self.running_weight_E,
            new_E,
            is_new=count_E > 0,
            decay=_DECAY,
        )


class ExpertChoiceGate(LinearGate):
    """Every expert takes its share of each rank's tokens; a weight is the probability itself.

    In training these are the ⌈share · T⌉ tokens that are most probable for it; ties by token index.
    At evaluation those whose probability reaches its threshold, each judged by itself; by share too
    where nothing was learned yet, and where evaluation is to be as training.

    Args:
        rule: says which share.
        reaches: of the tokens that may come.
    """

    def __init__(self, *, rule: CapacityRule, reaches: tuple[Reach, ...], **common):
        super().__init__(**common)
        self.rule = rule
        num_experts = common["num_experts"]
        self.thresholds = nn.ModuleDict(
            {reach.value: ExpertThresholds(num_experts) for reach in reaches}
        )

    def route(
        self, z_VTE: Tensor, is_pad_VT: Tensor, within: InReach, *, capacity: int | None
    ) -> Gated:
        """Choose tokens for each expert in reach; see `GShardGate.route`.

        A token has a choice for each of them, -1 where it is not taken.
        """
        probs_VTE = self._probabilities(z_VTE)
        num_experts = z_VTE.shape[-1]
        slots_VTE, quantile_N2 = self._compare(probs_VTE.detach(), is_pad_VT)
        if self.training and within.reach.value in self.thresholds:
            thresholds = self._thresholds_of(within.reach)
            thresholds.see(quantile_N2, within.experts_VE.flatten(), within.micro_batch)
        is_taken_VTE = self._is_taken(probs_VTE.detach(), slots_VTE, is_pad_VT, within)
        if capacity is not None:
            is_taken_VTE = is_taken_VTE & (slots_VTE < capacity)
        ids_E = torch.arange(num_experts, device=z_VTE.device)
        weights_VTE = probs_VTE.masked_fill(~is_taken_VTE, 0)
        first_VT = torch.where(is_taken_VTE.any(-1), weights_VTE.argmax(-1), num_experts)
        routing = Routing(
            expert_ids_VTK=torch.where(is_taken_VTE, ids_E, -1),
            slots_VTK=slots_VTE.masked_fill(~is_taken_VTE, -1),
            weights_VTK=weights_VTE,
            counts_VE=is_taken_VTE.sum(1),
            first_counts_VE=count_by_expert(first_VT, num_experts=num_experts),
            num_tokens_V=(~is_pad_VT).sum(1),
            capacity=capacity,
        )
        return self._gated(routing, probs_VTE, is_pad_VT)

    def _compare(self, probs_VTE: Tensor, is_pad_VT: Tensor) -> tuple[Tensor, Tensor]:
        """The place of each token among those of a rank by what an expert likes, and for each
        expert the probability that its share of them reach (see `upper_quantile`)."""
        num_ranks, num_tokens, num_experts = probs_VTE.shape
        probs_NT = probs_VTE.transpose(1, 2).flatten(0, 1)
        is_pad_NT = is_pad_VT.repeat_interleave(num_experts, dim=0)
        order_NT = best_first(probs_NT, is_pad_NT)
        places_NT = invert_permutation(order_NT)
        quantile_N2 = probs_NT.new_zeros(len(probs_NT), 2, dtype=torch.float64)
        if num_tokens:
            share = float(self.rule.share(num_experts))
            sorted_NT = probs_NT.gather(1, order_NT)
            quantile_N2 = upper_quantile(sorted_NT, is_pad_NT, share=share)
        return places_NT.view(num_ranks, num_experts, num_tokens).transpose(1, 2), quantile_N2

    def _is_taken(
        self, probs_VTE: Tensor, slots_VTE: Tensor, is_pad_VT: Tensor, within: InReach
    ) -> Tensor:
        is_real_VT1 = ~is_pad_VT.unsqueeze(-1)
        share = self.rule.share(probs_VTE.shape[-1])
        if share == 1:
            return is_real_VT1.expand_as(probs_VTE)
        num_tokens_V11 = is_real_VT1.sum(1, keepdim=True)
        # ⌈share · T⌉ in whole numbers.
        quota_V11 = -(-share.numerator * num_tokens_V11 // share.denominator)
        is_best_VTE = (slots_VTE < quota_V11) & is_real_VT1
        if self.training or self.rule.evaluation_fraction == -1:
            return is_best_VTE
        thresholds = self._thresholds_of(within.reach)
        threshold_V1E, weight_V1E = (
            state_E[within.experts_VE].unsqueeze(1)
            for state_E in (thresholds.running_threshold_E, thresholds.running_weight_E)
        )
        is_above_VTE = (probs_VTE >= threshold_V1E) & is_real_VT1
        return torch.where(weight_V1E > 0, is_above_VTE, is_best_VTE)

    def _thresholds_of(self, reach: Reach) -> ExpertThresholds:
        thresholds = self.thresholds[reach.value]
        assert isinstance(thresholds, ExpertThresholds)
        return thresholds
