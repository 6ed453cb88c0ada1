"""What a MoE layer reports: its balance loss, and sums that add up over ranks, batches, processes.

What the host knows stays on the host, and the rest is summed with few operations: a forward pass
makes a report at every update. Shares, means and loads are computed by whoever reads the sums.

Shape suffixes: V hosted ranks, E experts of the layer, G layers.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.gates import Gated
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class KnownSums:
    """A layer's sums over the ranks of this process that the host knows without asking a device.

    Tokens count once for each reach that they pass (in SCoMoE-Feat all of them).
    """

    tokens_local: float
    tokens_node: float
    tokens_global: float
    balance_ranks: float  # ranks whose balance loss counts
    bytes_rank: float  # there and back in a forward pass: within ranks,
    bytes_node: float  # within nodes,
    bytes_between: float  # between nodes
    assignment_seconds: float


@dataclass(frozen=True)
class MoeReport:
    """What a layer tells the criterion."""

    name: str
    kind: LayerKind
    balance_loss_V: Tensor | None  # None for CLUSTER, which is balanced by what it is
    known: KnownSums
    counted: Tensor  # what a device counted: `COUNTED`, then `BY_EXPERT` of every expert; float64


KNOWN = tuple(field.name for field in fields(KnownSums))
COUNTED = ("routed", "entropy", "balance_loss")  # tokens with an expert; nats; over the ranks
BY_EXPERT = ("first_made", "first_kept", "made", "kept")  # choices before and after drops


@dataclass(frozen=True)
class RoutedPart:
    """What a layer did with the tokens of one reach."""

    reach: Reach
    routing: Routing
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank
    num_tokens_V: Sequence[int]
    sent_bytes: tuple[int, int, int]  # there and back: within ranks, within nodes, between nodes
    gated: Gated | None = None  # None: there was no gate with probabilities


def make_report(
    parts: Sequence[RoutedPart],
    *,
    name: str,
    kind: LayerKind,
    num_experts: int,
    assignment_seconds: float = 0.0,
) -> MoeReport:
    """The report of a layer over the ranks of this process.

    Its balance loss on a rank is the mean over the reaches that have more than one expert and at
    least one token there; 0 if there is none.
    """
    balance_loss_V, num_balanced_V = _balance(parts)
    tokens = {part.reach: float(sum(part.num_tokens_V)) for part in parts}
    on_rank, in_node, between = map(sum, zip(*(part.sent_bytes for part in parts), strict=True))
    known = KnownSums(
        tokens_local=tokens.get(Reach.LOCAL, 0.0),
        tokens_node=tokens.get(Reach.NODE, 0.0),
        tokens_global=tokens.get(Reach.GLOBAL, 0.0),
        balance_ranks=float(sum(count > 0 for count in num_balanced_V)),
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
        counted=_count(parts, balance_loss_V, num_experts=num_experts),
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


def _balance(parts: Sequence[RoutedPart]) -> tuple[Tensor | None, list[int]]:
    """The balance loss (V,), and of how many reaches it is the mean on each rank."""
    num_balanced_V = [0] * len(parts[0].num_tokens_V)
    first = parts[0].gated
    if first is None:
        return None, num_balanced_V
    losses = []
    for part in parts:
        if part.gated is None or part.experts_VE.shape[1] == 1:
            continue
        # A rank without tokens of this reach has a loss of 0.
        losses.append(part.gated.balance_loss())
        for rank, count in enumerate(part.num_tokens_V):
            num_balanced_V[rank] += count > 0
    if not losses:
        return first.probs_VTE.new_zeros(len(num_balanced_V)), num_balanced_V
    loss_V = losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)
    divisors = [max(1, count) for count in num_balanced_V]
    if len(set(divisors)) == 1:
        return loss_V / divisors[0], num_balanced_V
    means = [loss / divisor for loss, divisor in zip(loss_V, divisors, strict=True)]
    return torch.stack(means), num_balanced_V


def _count(
    parts: Sequence[RoutedPart], balance_loss_V: Tensor | None, *, num_experts: int
) -> Tensor:
    made_or_kept = parts[0].routing.counts_VE.new_zeros(len(BY_EXPERT), num_experts)
    routed, entropies = [], []
    for part in parts:
        routing, capacity = part.routing, part.routing.capacity
        counts = [routing.first_counts_VE, routing.counts_VE]
        kept = counts if capacity is None else [one.clamp(max=capacity) for one in counts]
        of_part = torch.stack([counts[0], kept[0], counts[1], kept[1]])
        made_or_kept.index_add_(1, part.experts_VE.flatten(), of_part.flatten(1))
        routed.append((routing.slots_VTK.amax(dim=-1) >= 0).sum())
        if part.gated is not None:
            entropies.append(part.gated.entropy())
    zero = made_or_kept.new_zeros((), dtype=torch.float64)
    sums = [
        torch.stack(routed).sum().double(),
        torch.stack(entropies).sum().double() if entropies else zero,
        zero if balance_loss_V is None else balance_loss_V.detach().sum().double(),
    ]
    return torch.cat([torch.stack(sums), made_or_kept.flatten().double()])
