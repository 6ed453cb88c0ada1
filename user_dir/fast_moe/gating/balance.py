"""What keeps the load of experts even: losses of a layer's gate, or a bias on its choices.

GShard (Lepikhin et al., 2021); topology-aware shares after TA-MoE (Chen et al., NeurIPS 2022) and
LocMoE; z-loss after ST-MoE (Zoph et al., 2022). Shape suffixes: V hosted ranks, T tokens, E
experts, P reaches with more than one expert, G layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from user_dir.errors import UserError
from user_dir.fast_moe.gating.bias import ExpertBias
from user_dir.fast_moe.gating.gates import Gated
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.routing.slots import Routing
from user_dir.fast_moe.tokens.ranked import RankedTokens


@dataclass(frozen=True)
class RoutedPart:
    """What was decided for the tokens of one reach."""

    reach: Reach
    routing: Routing
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank
    gated: Gated | None = None  # None: there was no gate with probabilities


@dataclass(frozen=True)
class GateSums:
    """Of the tokens of this process: what a balance loss over all ranks is made of."""

    probs_PxE: Tensor  # the gate's probabilities, added up; with a gradient
    firsts_PxE: Tensor  # first choices


@dataclass(frozen=True)
class BalanceLosses:
    """What a layer adds to the training loss, and what is logged of it."""

    balance_V: Tensor | None  # None: the layer has no gate, or its experts choose
    is_balanced_V: Tensor  # which ranks have one
    is_trained: bool = True  # whether the balance loss is one to train on
    z_V: Tensor | None = None  # times its weight; None: not asked for
    gate_sums: GateSums | None = None  # None: not asked for


class Balance(nn.Module):
    """How a layer keeps its experts evenly loaded.

    Args:
        by_loss: whether the balance loss is to be trained on, not only logged.
        by_experts: nothing is needed, for experts choose their tokens.
        everywhere: take the means of the balance loss over the tokens of all ranks.
        bias: moves choices instead of a loss.
        topology_shares: of tokens for the own rank, the rest of its node and other nodes, that the
            balance loss draws to; None: equal ones for all experts.
        z_loss_weight: of a loss on large logits; 0: none.
    """

    def __init__(
        self,
        *,
        by_loss: bool = True,
        by_experts: bool = False,
        everywhere: bool = False,
        bias: ExpertBias | None = None,
        topology_shares: tuple[float, ...] | None = None,
        z_loss_weight: float = 0.0,
    ):
        super().__init__()
        self.by_loss, self.everywhere, self.z_loss_weight = by_loss, everywhere, z_loss_weight
        self.bias = bias
        self.by_experts = by_experts
        self.topology_shares = topology_shares
        self._targets_VE: Tensor | None = None  # copied to a device once, not in every pass

    def bias_of(self, experts_VE: Tensor) -> Tensor | None:
        """What a gate adds to the probabilities of some experts where it compares them."""
        return None if self.bias is None else self.bias.of(experts_VE)

    def losses(
        self, parts: Sequence[RoutedPart], z_VTE: Tensor, tokens: RankedTokens, topology: Topology
    ) -> BalanceLosses:
        """The losses of a layer's ranks.

        The balance loss on a rank is the mean over the reaches that have more than one expert and
        at least one token there; 0 if there is none.
        """
        z_V = None
        if self.z_loss_weight:
            z_V = self.z_loss_weight * z_loss(z_VTE, tokens.is_pad_VT)
        firsts_VE = parts[0].routing.first_counts_VE
        if self.by_experts:
            return BalanceLosses(None, firsts_VE.new_zeros(firsts_VE.shape[0]), z_V=z_V)
        balanced = [part for part in parts if part.experts_VE.shape[1] > 1]
        values, counts = [], []
        for part in balanced:
            assert part.gated is not None
            targets_VE = None
            if self.topology_shares is not None and part.reach is Reach.GLOBAL:
                targets_VE = self._target_shares(topology, z_VTE.device)
            # A rank without tokens of this reach has a loss of 0.
            values.append(part.gated.balance_loss(targets_VE))
            counts.append(part.routing.first_counts_VE.sum(1) > 0)
        if not values:
            balance_V = z_VTE.new_zeros(firsts_VE.shape[0])
            is_balanced_V = firsts_VE.new_zeros(firsts_VE.shape[0])
        elif len(values) == 1:
            balance_V, is_balanced_V = values[0], counts[0]
        else:
            num_balanced_V = torch.stack(counts).sum(0)
            balance_V = torch.stack(values).sum(0) / num_balanced_V.clamp(min=1)
            is_balanced_V = num_balanced_V > 0
        return BalanceLosses(
            balance_V=balance_V,
            is_balanced_V=is_balanced_V,
            is_trained=self.by_loss,
            z_V=z_V,
            gate_sums=_gate_sums(balanced, topology.num_experts) if self.everywhere else None,
        )

    def _target_shares(self, topology: Topology, device: torch.device) -> Tensor:
        assert self.topology_shares is not None
        if self._targets_VE is None or self._targets_VE.device != device:
            self._targets_VE = target_shares(topology, self.topology_shares, device)
        return self._targets_VE

    def see(self, parts: Sequence[RoutedPart], tokens: RankedTokens) -> None:
        """Let the bias learn from the loads of a pass in training."""
        if self.bias is None or not self.training:
            return
        loads_E = self.bias.running_bias_E.new_zeros(self.bias.num_sums, dtype=torch.float64)
        for part in parts:
            counts = part.routing.counts_VE.flatten().double()
            loads_E.index_add_(0, part.experts_VE.flatten(), counts)
        self.bias.leave(loads_E, tokens.micro_batch)


def target_shares(topology: Topology, shares: tuple[float, ...], device: torch.device) -> Tensor:
    """The share of a rank's tokens that each expert is to get, (V, E), from those by distance."""
    per_node, per_rank = topology.layout.ranks_per_node, topology.experts_per_rank
    sizes = (1, per_node - 1, topology.num_ranks - per_node)
    ranks_E = torch.arange(topology.num_experts) // per_rank
    rows = []
    for rank in topology.hosted_ranks:
        distance_E = torch.where(ranks_E // per_node == rank // per_node, 1, 2)
        distance_E[ranks_E == rank] = 0
        each = torch.tensor(
            [share / (size * per_rank) for share, size in zip(shares, sizes, strict=True)],
            dtype=torch.float64,
        )
        rows.append(each[distance_E])
    return torch.stack(rows).to(device)


def check_topology_shares(shares: tuple[float, ...] | None, topology: Topology) -> None:
    """Raises `UserError` where a layout has no such distances."""
    layout = topology.layout
    if shares is None:
        return
    if layout.num_nodes < 2 or layout.ranks_per_node < 2 or topology.num_experts < layout.num_ranks:
        raise UserError(
            "--moe-topology-shares tells the own rank, the rest of its node and other nodes apart, "
            f"with experts on each; the layout is {layout} with {topology.num_experts} experts"
        )


def balance_over_all_ranks(sums: Sequence[GateSums], size: Tensor) -> tuple[Tensor, Tensor]:
    """The balance loss of each layer over the tokens of all ranks. A collective.

    E · Σ_e mean(g_e) · mean(1[e1 = e]), the mean over the layer's reaches that have any token.
    Their gradient is that of this process's probabilities.

    Args:
        size: of this process's sample.

    Returns:
        the losses (G,), and the sample size of all processes.
    """
    probs_QxE = torch.cat([one.probs_PxE for one in sums])
    firsts_QxE = torch.cat([one.firsts_PxE for one in sums])
    both = torch.stack([probs_QxE.detach(), firsts_QxE])
    of_all = torch.cat([both.flatten(), size.view(1).to(both)])
    if running_processes()[1] > 1:
        dist.all_reduce(of_all)
    all_probs_QxE, all_firsts_QxE = of_all[:-1].view_as(both)
    probs_QxE = all_probs_QxE + (probs_QxE - probs_QxE.detach())
    num_tokens_Q = all_firsts_QxE.sum(1)
    losses_Q = (probs_QxE * all_firsts_QxE).sum(1) / num_tokens_Q.clamp(min=1).square()
    losses_Q = losses_Q * probs_QxE.shape[1]
    has_tokens_Q = (num_tokens_Q > 0).to(losses_Q)
    sizes = [len(one.probs_PxE) for one in sums]
    means = [
        loss_P.sum() / has_P.sum().clamp(min=1)
        for loss_P, has_P in zip(losses_Q.split(sizes), has_tokens_Q.split(sizes), strict=True)
    ]
    return torch.stack(means), of_all[-1]


def z_loss(z_VTE: Tensor, is_pad_VT: Tensor) -> Tensor:
    """mean over a rank's tokens of logsumexp(z)², (V,); 0 without any."""
    z_VTE = z_VTE.to(torch.promote_types(z_VTE.dtype, torch.float32))
    square_VT = z_VTE.logsumexp(dim=-1).square().masked_fill(is_pad_VT, 0)
    return square_VT.sum(1) / (~is_pad_VT).sum(1).clamp(min=1)


def _gate_sums(parts: Sequence[RoutedPart], num_experts: int) -> GateSums | None:
    probs, firsts = [], []
    for part in parts:
        assert part.gated is not None
        probs_VE = part.gated.probs_VTE.sum(dim=1)
        experts = part.experts_VE.flatten()
        zero = probs_VE.new_zeros(num_experts)
        probs.append(zero.index_add(0, experts, probs_VE.flatten()))
        firsts.append(zero.index_add(0, experts, part.routing.first_counts_VE.flatten().to(zero)))
    return GateSums(torch.stack(probs), torch.stack(firsts)) if probs else None
