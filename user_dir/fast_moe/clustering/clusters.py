"""Token clustering: tokens move to the rank of their cluster, and back after the stack.

Zeng and Xiong (2023), section 3.3. Shape suffixes: V hosted ranks, T tokens, L experts served here,
M rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.clustering.assignment import ClusterGate
from user_dir.fast_moe.clustering.meaning import count_kinds
from user_dir.fast_moe.clustering.sorting import differentiable_sort, take_tokens
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.dispatch.dropless import DroplessTrip
from user_dir.fast_moe.exchange.all_to_all import Line
from user_dir.fast_moe.gathers import gather_rows, invert_permutation
from user_dir.fast_moe.gating.balance import RoutedPart
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import MoeReport, make_report
from user_dir.fast_moe.routing.slots import build_routing
from user_dir.fast_moe.tokens.ranked import (
    RankedTokens,
    agree_on_sizes,
    quotas_on_device,
)


@dataclass(frozen=True)
class TokenClusters:
    """Where clustered tokens are, and how they get back; lives as long as one forward pass."""

    tokens: RankedTokens  # the clustered ones, rank by rank
    counts: list[int]  # rows of each expert served here
    expert_M: Tensor  # global id of the expert of each row
    row_VT: Tensor  # row of each clustered token; -1: none
    place_M: Tensor  # v·T' + t of each row
    order_VT: Tensor  # the permutation that sorted the tokens before they left
    trip: DroplessTrip  # at the experts, until they go back
    report: MoeReport | None  # None: nobody reads it

    def to_rows(self, x_VTD: Tensor) -> Tensor:
        """The real tokens, (M, D), grouped by expert."""
        return gather_rows(x_VTD.flatten(0, 1), self.place_M, self.row_VT.flatten().unsqueeze(-1))

    def to_ranks(self, rows_MD: Tensor) -> Tensor:
        """The inverse of `to_rows`; 0 at padding."""
        rows = gather_rows(rows_MD, self.row_VT.flatten(), self.place_M.unsqueeze(-1))
        return rows.view(*self.row_VT.shape, -1)

    def restore(self, x_VTD: Tensor) -> Tensor:
        """Bring the tokens back to the ranks and places that they came from. A collective."""
        line = Line()
        self.trip.answer(self.to_rows(x_VTD), line)
        return take_tokens(self.trip.collect(line), invert_permutation(self.order_VT))


def cluster(
    x_VTD: Tensor,
    tokens: RankedTokens,
    *,
    gate: ClusterGate,
    temperature: float,
    shares: Shares | None,
    topology: Topology,
    detach: bool,
    by_step: bool,
    name: str,
) -> tuple[Tensor, TokenClusters]:
    """Send every token to the rank of its cluster. A collective.

    Only real tokens travel: their number is uneven at evaluation anyway, and known before.

    Args:
        temperature: of the softmax that scores learn through, if the gate has any.
        shares: of the layers that follow; their quotas are agreed on anew.
        detach: keep the scores' gradient from the tokens.
        by_step: balance the tokens of each position among themselves.

    Returns:
        the tokens where they arrived, (V, T', D), and the way back.
    """
    assignment = gate.assign(x_VTD.detach() if detach else x_VTD, tokens, by_step=by_step)
    # Experts in order, and so groups in order; padding last.
    key_VT = assignment.expert_VT.masked_fill(tokens.is_pad_VT, topology.num_experts)
    order_VT = key_VT.argsort(dim=-1, stable=True)
    if assignment.scores_VTG is not None:
        sorted_VTD = differentiable_sort(
            x_VTD,
            assignment.scores_VTG,
            group_VT=assignment.group_VT,
            order_VT=order_VT,
            temperature=temperature,
        )
    else:
        sorted_VTD = take_tokens(x_VTD, order_VT)
    expert_VT1 = assignment.expert_VT.gather(1, order_VT).unsqueeze(-1)
    routing = build_routing(
        expert_VT1,
        torch.ones_like(expert_VT1, dtype=x_VTD.dtype),
        num_experts=topology.num_experts,
        capacity=None,
        normalize="none",
    )
    plan = topology.plan(Reach.GLOBAL)
    trip = DroplessTrip(sorted_VTD, routing, plan, torch.nn.Identity())
    line = Line()
    trip.send(line)
    rows_MD = trip.arrive(line)
    report = None
    if tokens.is_reported:
        directions = tokens.directions
        part = RoutedPart(
            reach=Reach.GLOBAL,
            routing=routing,
            experts_VE=topology.experts_in(Reach.GLOBAL, x_VTD.device),
        )
        report = make_report(
            [part],
            sent_bytes=[trip.sent_bytes()],
            name=name,
            kind=LayerKind.CLUSTER,
            num_experts=topology.num_experts,
            assignment_seconds=assignment.seconds,
            kinds_KG=count_kinds(assignment.group_VT, tokens, num_groups=gate.num_groups),
            directions=None if directions is None else directions.reordered(order_VT),
        )
    clusters = _clusters(
        trip, tokens, topology=topology, shares=shares, order_VT=order_VT, report=report
    )
    return clusters.to_ranks(rows_MD), clusters


def _clusters(
    trip: DroplessTrip,
    tokens: RankedTokens,
    *,
    topology: Topology,
    shares: Shares | None,
    order_VT: Tensor,
    report: MoeReport | None,
) -> TokenClusters:
    """Lay the rows that arrived out rank by rank; T' is agreed on anew."""
    device = order_VT.device
    counts = trip.counts
    assert isinstance(counts, list)
    per_rank, num_hosted = topology.experts_per_rank, topology.num_hosted
    by_rank = [sum(counts[v * per_rank : (v + 1) * per_rank]) for v in range(num_hosted)]
    sizes = agree_on_sizes(by_rank, shares, device=device)
    num_rows, num_tokens = sum(by_rank), sizes.num_tokens
    # Copied to the device, as the quotas are: the rows of each expert. The rest is made there.
    counts_L = torch.tensor(counts).to(device)
    counts_V = counts_L.view(num_hosted, per_rank).sum(1)
    starts_V = counts_V.cumsum(0) - counts_V
    places_T = torch.arange(num_tokens, device=device)
    is_pad_VT = places_T >= counts_V.unsqueeze(-1)
    served_L = topology.experts_in(Reach.LOCAL, device).flatten()
    shift_V = torch.arange(num_hosted, device=device) * num_tokens - starts_V
    shift_M = shift_V.repeat_interleave(counts_V, output_size=num_rows)
    return TokenClusters(
        tokens=RankedTokens(
            is_pad_VT=is_pad_VT,
            quotas_VR=quotas_on_device(sizes, device),
            sizes=sizes,
            noise=tokens.noise,
            is_reported=tokens.is_reported,
        ),
        counts=counts,
        expert_M=served_L.repeat_interleave(counts_L, output_size=num_rows),
        row_VT=(starts_V.unsqueeze(-1) + places_T).masked_fill(is_pad_VT, -1),
        place_M=shift_M + torch.arange(num_rows, device=device),
        order_VT=order_VT,
        trip=trip,
        report=report,
    )
