"""What a MoE layer reports: its balance loss, and sums that add up over ranks, batches, processes.

What the host knows stays on the host, and the rest is summed with few operations: a forward pass
makes a report at every update. Shares, means and loads are computed by whoever reads the sums.

Shape suffixes: V hosted ranks, T tokens, K choices, E experts of the layer, L directions, G layers.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.experts.shared import MixtureUse
from user_dir.fast_moe.gating.balance import BalanceLosses, RoutedPart
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.tokens.ranked import TokenDirections

BY_EXPERTS = "/experts"


@dataclass(frozen=True)
class KnownSums:
    """A layer's sums over the ranks of this process that the host knows without asking a device."""

    bytes_rank: float  # there and back in a forward pass: within ranks,
    bytes_node: float  # within nodes,
    bytes_between: float  # between nodes
    assignment_seconds: float


@dataclass(frozen=True)
class MoeReport:
    """What a layer tells the criterion."""

    name: str
    kind: LayerKind
    losses: BalanceLosses | None  # None for CLUSTER, which is balanced by what it is
    known: KnownSums
    counted: Tensor  # what a device counted: `COUNTED`, then `BY_EXPERT` of every expert; float64
    num_hosted: int  # V
    use: MixtureUse | None = None  # of the mixture, under conditional routing
    kinds_KG: Tensor | None = None  # CLUSTER only: tokens of each kind in each group
    # Choices kept, by direction of the token; None: the tokens do not know theirs.
    by_direction_LxE: Tensor | None = None

    @property
    def label(self) -> str:
        """The kind, and where experts choose tokens that they do."""
        by_experts = self.losses is not None and self.losses.balance_V is None
        return self.kind.value + (BY_EXPERTS if by_experts else "")

    @property
    def balance_loss_V(self) -> Tensor | None:
        """The balance loss of each rank; None for CLUSTER."""
        return None if self.losses is None else self.losses.balance_V


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


def make_report(
    parts: Sequence[RoutedPart],
    *,
    sent_bytes: Sequence[tuple[int, int, int]],
    losses: BalanceLosses | None = None,
    name: str,
    kind: LayerKind,
    num_experts: int,
    assignment_seconds: float = 0.0,
    use: MixtureUse | None = None,
    kinds_KG: Tensor | None = None,
    directions: TokenDirections | None = None,
) -> MoeReport:
    """The report of a layer over the ranks of this process.

    Args:
        sent_bytes: of each part, there and back: within ranks, within nodes, between nodes.
        losses: of the layer's gate, if it has one.
        use: of the mixture, under conditional routing.
        kinds_KG: of a clustering layer: tokens of each kind in each group.
        directions: of the tokens, in the order in which they were routed.
    """
    by_direction_LxE = None
    if directions is not None:
        by_direction_LxE = _count_by_direction(parts, directions, num_experts=num_experts)
    on_rank, in_node, between = map(sum, zip(*sent_bytes, strict=True))
    known = KnownSums(
        bytes_rank=float(on_rank),
        bytes_node=float(in_node),
        bytes_between=float(between),
        assignment_seconds=assignment_seconds,
    )
    return MoeReport(
        name=name,
        kind=kind,
        losses=losses,
        known=known,
        counted=_count(parts, losses, num_experts=num_experts),
        num_hosted=parts[0].routing.counts_VE.shape[0],
        use=use,
        kinds_KG=kinds_KG,
        by_direction_LxE=by_direction_LxE,
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


def _count(
    parts: Sequence[RoutedPart],
    losses: BalanceLosses | None,
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
        tokens[part.reach] = tokens[part.reach] + routing.num_tokens_V.sum()
        routed.append((routing.slots_VTK.amax(dim=-1) >= 0).sum())
        if part.gated is not None:
            entropies.append(part.gated.entropy())
    zero = made_or_kept.new_zeros((), dtype=torch.float64)
    balance_V = None if losses is None else losses.balance_V
    sums = [
        *(tokens[reach].double() for reach in Reach),
        torch.stack(routed).sum().double(),
        torch.stack(entropies).sum().double() if entropies else zero,
        zero if balance_V is None else balance_V.detach().sum().double(),
        zero if losses is None else losses.is_balanced_V.sum().double(),
    ]
    return torch.cat([torch.stack(sums), made_or_kept.flatten().double()])


def _count_by_direction(
    parts: Sequence[RoutedPart], directions: TokenDirections, *, num_experts: int
) -> Tensor:
    nowhere = directions.number * num_experts
    counts = torch.zeros(nowhere + 1, dtype=torch.float64, device=directions.ids_VT.device)
    for part in parts:
        ids_VTK = part.routing.expert_ids_VTK.clamp(min=0)
        experts_VTK = part.experts_VE.gather(1, ids_VTK.flatten(1)).view_as(ids_VTK)
        cell_VTK = directions.ids_VT.unsqueeze(-1) * num_experts + experts_VTK
        cell_VTK = torch.where(part.routing.slots_VTK >= 0, cell_VTK, nowhere)
        ones = counts.new_ones(()).expand(cell_VTK.numel())
        counts.scatter_add_(0, cell_VTK.flatten(), ones)
    return counts[:-1].view(directions.number, num_experts)
