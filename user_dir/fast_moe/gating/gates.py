"""Gates: which experts a token is routed to, and with which weight.

GShard (Lepikhin et al., 2021, algorithm 1) takes the two best experts, Switch (Fedus et al.,
2022) the best one. Shape suffixes: V hosted ranks, T tokens, E experts in reach, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.gating.options import GATES, POLICIES
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.slots import Routing, build_routing
from user_dir.fast_moe.tokens.noise import RoutingNoise


@dataclass(frozen=True)
class InReach:
    """The experts among which some tokens are routed in a pass, and what a gate is told of it."""

    reach: Reach
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank
    num_nodes: int = 1  # that these lie on, equally many on each
    noise: RoutingNoise | None = None  # of this layer in training; None: no noise
    bias_V1E: Tensor | None = None  # added to the probabilities where experts are compared
    micro_batch: int | None = None  # that a gate may learn from; None: from none


@dataclass(frozen=True)
class Gated:
    """A gate's decision, and the probabilities that it was made of."""

    routing: Routing
    probs_VTE: Tensor  # 0 at padding, and at least in float32, for means over many tokens

    @staticmethod
    def of(routing: Routing, probs_VTE: Tensor, is_pad_VT: Tensor) -> "Gated":
        probs_VTE = probs_VTE.to(torch.promote_types(probs_VTE.dtype, torch.float32))
        return Gated(routing, probs_VTE.masked_fill(is_pad_VT.unsqueeze(-1), 0))

    def balance_loss(self, targets_VE: Tensor | None = None) -> Tensor:
        """Σ_e mean(g_e) · mean(1[e1 = e]) / c_e on each rank, (V,); 0 on a rank without tokens.

        Args:
            targets_VE: c, the shares that experts are to get; None: 1/E each.
        """
        firsts_VE = self.routing.first_counts_VE.to(self.probs_VTE.dtype)
        num_tokens_V1 = firsts_VE.sum(dim=1, keepdim=True).clamp(min=1)
        mean_prob_VE = self.probs_VTE.sum(dim=1) / num_tokens_V1
        mean_first_VE = firsts_VE / num_tokens_V1
        if targets_VE is not None:
            return (mean_prob_VE * mean_first_VE / targets_VE.to(mean_prob_VE)).sum(dim=1)
        return firsts_VE.shape[1] * (mean_prob_VE * mean_first_VE).sum(dim=1)

    def entropy(self) -> Tensor:
        """Of the distributions of all tokens of all ranks, added up, in nats."""
        return torch.special.entr(self.probs_VTE.detach()).sum()


class LinearGate(nn.Module):
    """Scores of all experts: z = x · W, without bias.

    Args:
        use_fp32: compute in float32, the product included.
        kind: of the probabilities: "softmax" over the experts in reach, or "sigmoid" of each.
        limit_nodes: let a token choose among the experts of so many nodes, those whose two most
            probable experts have the largest sum (DeepSeek-V2 and V3); None: of all.
        prioritize: give slots by descending first probability instead of batch order.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_experts: int,
        use_fp32: bool = False,
        kind: str = "softmax",
        limit_nodes: int | None = None,
        prioritize: bool = False,
    ):
        super().__init__()
        assert kind in GATES
        self.projection = nn.Linear(dim, num_experts, bias=False)
        self.use_fp32, self.kind = use_fp32, kind
        self.limit_nodes, self.prioritize = limit_nodes, prioritize

    def logits(self, x_VTD: Tensor) -> Tensor:
        """Scores (V, T, E), in float32, the product included, where the gate was told so."""
        if not self.use_fp32:
            return self.projection(x_VTD)
        with torch.autocast(device_type=x_VTD.device.type, enabled=False):
            return x_VTD.float() @ self.projection.weight.float().T

    def _probabilities(self, z_VTE: Tensor) -> Tensor:
        return z_VTE.softmax(dim=-1) if self.kind == "softmax" else z_VTE.sigmoid()

    def _eligible(self, probs_VTE: Tensor, z_VTE: Tensor, within: InReach) -> Tensor:
        """What choices compare, without a gradient: −inf for experts of nodes that are too many."""
        bias_V1E, num_nodes = within.bias_V1E, within.num_nodes
        scores_VTE = z_VTE.detach()
        if bias_V1E is not None:
            scores_VTE = probs_VTE.detach() + bias_V1E.to(probs_VTE)
        if self.limit_nodes is None or num_nodes <= self.limit_nodes:
            return scores_VTE
        by_node = (num_nodes, -1)
        ranked = scores_VTE if bias_V1E is not None else probs_VTE.detach()
        best = ranked.unflatten(-1, by_node)
        node_VTN = best.topk(min(2, best.shape[-1]), dim=-1).values.sum(-1)
        chosen_VTM = node_VTN.topk(self.limit_nodes, dim=-1).indices
        is_out_VTN = torch.ones_like(node_VTN, dtype=torch.bool).scatter(-1, chosen_VTM, False)
        blocked = is_out_VTN.unsqueeze(-1)
        return scores_VTE.unflatten(-1, by_node).masked_fill(blocked, float("-inf")).flatten(-2)

    def _gated(self, routing: Routing, probs_VTE: Tensor, is_pad_VT: Tensor) -> Gated:
        if self.kind == "sigmoid":  # a distribution, for balance and entropy
            probs_VTE = probs_VTE / probs_VTE.sum(dim=-1, keepdim=True)
        return Gated.of(routing, probs_VTE, is_pad_VT)


class SwitchGate(LinearGate):
    """Top-1 routing; the weight is the probability itself, 1 where only one expert is in reach."""

    def route(
        self,
        z_VTE: Tensor,
        is_pad_VT: Tensor,
        within: InReach,
        *,
        capacity: int | None,
    ) -> Gated:
        """Route each real token to its best expert; see `GShardGate.route`."""
        probs_VTE = self._probabilities(z_VTE)
        first_VT = self._eligible(probs_VTE, z_VTE, within).argmax(dim=-1)
        prob_VT1 = probs_VTE.gather(-1, first_VT.unsqueeze(-1))
        routing = build_routing(
            first_VT.masked_fill(is_pad_VT, -1).unsqueeze(-1),
            prob_VT1,
            num_experts=z_VTE.shape[-1],
            capacity=capacity,
            normalize="none",
            priority_VT=_priority(prob_VT1, self.prioritize),
        )
        return self._gated(routing, probs_VTE, is_pad_VT)


class GShardGate(LinearGate):
    """Top-2 routing.

    Args:
        second_policy: "sampling" adds Gumbel noise to the scores of the second choice, "random"
            keeps it with probability min(1, 2·g2), "all" keeps it; both noises in training only.
        normalize_before_dropping: whether the two weights are divided by their sum before or
            after choices are dropped. Before, a choice that the policy gave up counts in the sum.
    """

    def __init__(
        self, *, second_policy: str = "sampling", normalize_before_dropping: bool = False, **common
    ):
        super().__init__(**common)
        assert second_policy in POLICIES
        self.second_policy = second_policy
        self.normalize = "before" if normalize_before_dropping else "after"

    def route(
        self,
        z_VTE: Tensor,
        is_pad_VT: Tensor,
        within: InReach,
        *,
        capacity: int | None,
    ) -> Gated:
        """Choose two experts for each real token, or one where only one is in reach.

        Args:
            z_VTE: scores of the experts in reach.
            is_pad_VT: tokens that are routed nowhere and counted nowhere.
            within: the experts in reach.
            capacity: slots of an expert for each rank; None: nothing is dropped.
        """
        num_experts, noise = z_VTE.shape[-1], within.noise
        probs_VTE = self._probabilities(z_VTE)
        eligible_VTE = self._eligible(probs_VTE, z_VTE, within)
        first_VT = eligible_VTE.argmax(dim=-1)
        ids = [first_VT]
        if num_experts > 1:
            ids.append(self._second_choice(eligible_VTE, first_VT, noise))
        ids_VTK = torch.stack(ids, dim=-1)
        probs_VTK = probs_VTE.gather(-1, ids_VTK)
        ids_VTK = ids_VTK.masked_fill(is_pad_VT.unsqueeze(-1), -1)
        if num_experts > 1 and self.second_policy == "random" and noise is not None:
            given_up_VT = 2 * probs_VTK[..., 1] <= noise.uniform(is_pad_VT.shape)
            ids_VTK = torch.stack(
                [ids_VTK[..., 0], ids_VTK[..., 1].masked_fill(given_up_VT, -1)], dim=-1
            )
        routing = build_routing(
            ids_VTK,
            probs_VTK,
            num_experts=num_experts,
            capacity=capacity,
            normalize=self.normalize,
            priority_VT=_priority(probs_VTK, self.prioritize),
        )
        return self._gated(routing, probs_VTE, is_pad_VT)

    def _second_choice(self, scores_VTE: Tensor, first_VT: Tensor, noise) -> Tensor:
        if self.second_policy == "sampling" and noise is not None:
            scores_VTE = scores_VTE + noise.gumbel(scores_VTE.shape).to(scores_VTE.dtype)
        return scores_VTE.scatter(-1, first_VT.unsqueeze(-1), float("-inf")).argmax(dim=-1)


def _priority(probs_VTK: Tensor, prioritize: bool) -> Tensor | None:
    if not prioritize:
        return None
    order_VT = probs_VTK[..., 0].argsort(dim=-1, descending=True, stable=True)
    return order_VT.argsort(dim=-1)
