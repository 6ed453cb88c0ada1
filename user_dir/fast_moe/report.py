"""What a MoE layer reports: its balance loss, and sums that add up over ranks, batches, processes.

What the host knows stays on the host, and the rest is summed with few operations: a forward pass
makes a report at every update. Shares, means and loads are computed by whoever reads the sums.

Shape suffixes: V hosted ranks, E experts of the layer, G layers.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.gates import Gated
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class KnownSums:
    """A layer's sums over the ranks of this process that the host knows without asking a device."""

    bytes_rank: float  # there and back in a forward pass: within ranks,
    bytes_node: float  # within nodes,
    bytes_between: float  # between nodes
    assignment_seconds: float


@dataclass(frozen=True)
class GateSums:
    """Of the tokens of this process: what a balance loss over all ranks is made of.

    A row for each reach with more than one expert. Shape suffixes: P reaches, E experts.
    """

    probs_PxE: Tensor  # the gate's probabilities, added up; with a gradient
    firsts_PxE: Tensor  # first choices


@dataclass(frozen=True)
class MoeReport:
    """What a layer tells the criterion."""

    name: str
    kind: LayerKind
    balance_loss_V: Tensor | None  # None for CLUSTER, which is balanced by what it is
    known: KnownSums
    counted: Tensor  # what a device counted: `COUNTED`, then `BY_EXPERT` of every expert; float64
    num_hosted: int  # V
    gate_sums: GateSums | None = None  # None: not asked for
    kinds_KG: Tensor | None = None  # CLUSTER only: tokens of each kind in each group


KNOWN = tuple(field.name for field in fields(KnownSums))
# Tokens by reach (in SCoMoE-Feat all of them pass every reach), those with an expert, nats, the
# balance losses of the ranks, and how many ranks have one.
COUNTED = (
    "tokens_local",
    "tokens_node",
    "tokens_global",
    "routed",
    "entropy",
    "balance_loss",
    "balance_ranks",
)
BY_EXPERT = ("first_made", "first_kept", "made", "kept")  # choices before and after drops


@dataclass(frozen=True)
class RoutedPart:
    """What a layer did with the tokens of one reach."""

    reach: Reach
    routing: Routing
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank
    sent_bytes: tuple[int, int, int]  # there and back: within ranks, within nodes, between nodes
    gated: Gated | None = None  # None: there was no gate with probabilities


def make_report(
    parts: Sequence[RoutedPart],
    *,
    name: str,
    kind: LayerKind,
    num_experts: int,
    assignment_seconds: float = 0.0,
    balance_everywhere: bool = False,
    kinds_KG: Tensor | None = None,
) -> MoeReport:
    """The report of a layer over the ranks of this process.

    Its balance loss on a rank is the mean over the reaches that have more than one expert and at
    least one token there; 0 if there is none.

    Args:
        balance_everywhere: add what the balance loss over all ranks is made of.
        kinds_KG: of a clustering layer: tokens of each kind in each group.
    """
    balance_loss_V, is_balanced_V = _balance(parts)
    on_rank, in_node, between = map(sum, zip(*(part.sent_bytes for part in parts), strict=True))
    known = KnownSums(
        bytes_rank=float(on_rank),
        bytes_node=float(in_node),
        bytes_between=float(between),
        assignment_seconds=assignment_seconds,
    )
    return MoeReport(
        name=name,
        kind=kind,
        balance_loss_V=balance_loss_V,
        known=known,
        counted=_count(parts, balance_loss_V, is_balanced_V, num_experts=num_experts),
        num_hosted=parts[0].routing.counts_VE.shape[0],
        gate_sums=_gate_sums(parts, num_experts) if balance_everywhere else None,
        kinds_KG=kinds_KG,
    )


def gather_sums(reports: Sequence[MoeReport]) -> Tensor:
    """The sums of several layers, (G, known + counted), float64: one copy to a device for all."""
    known = torch.tensor([astuple(report.known) for report in reports], dtype=torch.float64)
    counted_G = torch.stack([report.counted for report in reports])
    return torch.cat([known.to(counted_G.device), counted_G], dim=1)


@dataclass(frozen=True)
class LayerSums:
    """Sums of several layers by name, each (G,), as `gather_sums` made them; loads are (G, E)."""

    by_name: dict[str, Tensor]

    @staticmethod
    def of(sums_G: Tensor) -> "LayerSums":
        """Read what `gather_sums` gave."""
        num_columns = len(KNOWN) + len(COUNTED)
        columns = dict(zip((*KNOWN, *COUNTED), sums_G[:, :num_columns].unbind(1), strict=True))
        by_expert_GxE = sums_G[:, num_columns:].unflatten(1, (len(BY_EXPERT), -1))
        first_made, first_kept, made, kept = by_expert_GxE.sum(-1).unbind(1)
        tokens = columns["tokens_local"] + columns["tokens_node"] + columns["tokens_global"]
        columns |= {
            "tokens": tokens,
            "first_dropped": first_made - first_kept,
            "second_made": made - first_made,
            "second_dropped": (made - first_made) - (kept - first_kept),
            "unrouted": tokens - columns["routed"],
            "loads": by_expert_GxE[:, BY_EXPERT.index("kept")],
        }
        return LayerSums(columns)

    def __getitem__(self, name: str) -> Tensor:
        return self.by_name[name]


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


def _balance(parts: Sequence[RoutedPart]) -> tuple[Tensor | None, Tensor]:
    """The balance loss (V,), and which ranks have one."""
    first = parts[0].routing.first_counts_VE
    if parts[0].gated is None:
        return None, first.new_zeros(first.shape[0])
    losses, counts = [], []
    for part in parts:
        if part.gated is not None and part.experts_VE.shape[1] > 1:
            # A rank without tokens of this reach has a loss of 0.
            losses.append(part.gated.balance_loss())
            counts.append(part.routing.first_counts_VE.sum(1) > 0)
    if not losses:
        return parts[0].gated.probs_VTE.new_zeros(first.shape[0]), first.new_zeros(first.shape[0])
    if len(losses) == 1:
        return losses[0], counts[0]
    num_balanced_V = torch.stack(counts).sum(0)
    return torch.stack(losses).sum(0) / num_balanced_V.clamp(min=1), num_balanced_V > 0


def _gate_sums(parts: Sequence[RoutedPart], num_experts: int) -> GateSums | None:
    probs, firsts = [], []
    for part in parts:
        if part.gated is None or part.experts_VE.shape[1] == 1:
            continue
        probs_VE = part.gated.probs_VTE.sum(dim=1)
        experts = part.experts_VE.flatten()
        zero = probs_VE.new_zeros(num_experts)
        probs.append(zero.index_add(0, experts, probs_VE.flatten()))
        firsts.append(zero.index_add(0, experts, part.routing.first_counts_VE.flatten().to(zero)))
    return GateSums(torch.stack(probs), torch.stack(firsts)) if probs else None


def _count(
    parts: Sequence[RoutedPart],
    balance_loss_V: Tensor | None,
    is_balanced_V: Tensor,
    *,
    num_experts: int,
) -> Tensor:
    made_or_kept = parts[0].routing.counts_VE.new_zeros(len(BY_EXPERT), num_experts)
    tokens = dict.fromkeys(Reach, made_or_kept.new_zeros(()))
    routed, entropies = [], []
    for part in parts:
        routing, capacity = part.routing, part.routing.capacity
        counts = [routing.first_counts_VE, routing.counts_VE]
        kept = counts if capacity is None else [one.clamp(max=capacity) for one in counts]
        of_part = torch.stack([counts[0], kept[0], counts[1], kept[1]])
        made_or_kept.index_add_(1, part.experts_VE.flatten(), of_part.flatten(1))
        tokens[part.reach] = counts[0].sum()  # every token has a first choice
        routed.append((routing.slots_VTK.amax(dim=-1) >= 0).sum())
        if part.gated is not None:
            entropies.append(part.gated.entropy())
    zero = made_or_kept.new_zeros((), dtype=torch.float64)
    sums = [
        *(tokens[reach].double() for reach in Reach),
        torch.stack(routed).sum().double(),
        torch.stack(entropies).sum().double() if entropies else zero,
        zero if balance_loss_V is None else balance_loss_V.detach().sum().double(),
        is_balanced_V.sum().double(),
    ]
    return torch.cat([torch.stack(sums), made_or_kept.flatten().double()])
