"""A MoE layer as GShard was first written: one-hot masks, einsum, a loop over experts.

Lepikhin et al. (2021), algorithm 1 and its listing: dispatch and combine are products with
tensors of tokens x experts x capacity. It computes what the layer's plain kind does, on one rank
and without padding. Shape suffixes: T tokens, E experts, C slots, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.gating.gates import GShardGate, SwitchGate


class OneHotMoe(nn.Module):
    """The same gate and copies of the same experts, each a module's worth of parameters.

    Args:
        capacity: slots of an expert.
    """

    def __init__(self, gate: SwitchGate | GShardGate, experts: ExpertFFN, *, capacity: int):
        super().__init__()
        self.gate = nn.Parameter(gate.projection.weight.detach().clone())
        self.top_k = 2 if isinstance(gate, GShardGate) else 1
        stacked = (experts.weight1_LDH, experts.bias1_LH, experts.weight2_LHD, experts.bias2_LD)
        self.experts = nn.ModuleList(
            nn.ParameterList(weight.detach().clone() for weight in of_expert)
            for of_expert in zip(*stacked, strict=True)
        )
        self.capacity = capacity

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs (T, D) and the balance loss."""
        probs_TE = (x_TD @ self.gate.T).softmax(dim=-1)
        combine_TEC, balance = self._combine_weights(probs_TE)
        dispatch_TEC = (combine_TEC > 0).to(x_TD.dtype)
        inputs_ECD = torch.einsum("tec,td->ecd", dispatch_TEC, x_TD)
        outputs = [
            (x_CD @ weight1_DH + bias1_H).relu() @ weight2_HD + bias2_D
            for x_CD, (weight1_DH, bias1_H, weight2_HD, bias2_D) in zip(
                inputs_ECD, self.experts, strict=True
            )
        ]
        y_TD = torch.einsum("tec,ecd->td", combine_TEC, torch.stack(outputs))
        return y_TD, balance

    def _combine_weights(self, probs_TE: Tensor) -> tuple[Tensor, Tensor]:
        num_experts = probs_TE.shape[-1]
        left_TE, taken_E, masks, slots = probs_TE, 0, [], []
        for _ in range(self.top_k):
            mask_TE = F.one_hot(left_TE.argmax(dim=-1), num_experts)
            # Second choices queue up behind all first ones.
            place_TE = mask_TE.cumsum(dim=0) - 1 + taken_E
            taken_E = taken_E + mask_TE.sum(dim=0)
            left_TE = left_TE.masked_fill(mask_TE.bool(), float("-inf"))
            masks.append(mask_TE * (place_TE < self.capacity))
            slots.append((place_TE * mask_TE).sum(dim=-1))
            if len(masks) == 1:
                is_first_TE = mask_TE
        gates = [(probs_TE * mask).sum(dim=-1) for mask in masks]
        if self.top_k == 2:
            total = torch.stack(gates).sum(dim=0)
            gates = [gate / total.clamp(min=torch.finfo(total.dtype).tiny) for gate in gates]
        terms = []
        for gate_T, mask_TE, slot_T in zip(gates, masks, slots, strict=True):
            slot_TC = F.one_hot(slot_T.clamp(max=self.capacity - 1), self.capacity)
            weight_TE = gate_T.unsqueeze(-1) * mask_TE
            terms.append(torch.einsum("te,tc->tec", weight_TE, slot_TC.to(weight_TE.dtype)))
        means = probs_TE.float().mean(dim=0) * is_first_TE.float().mean(dim=0)
        return torch.stack(terms).sum(dim=0), num_experts * means.sum()
