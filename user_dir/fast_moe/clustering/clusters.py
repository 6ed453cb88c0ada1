"""Token clustering: tokens move to the rank of their cluster, and back after the stack.

Zeng and Xiong (2023), section 3.3. Shape suffixes: V hosted ranks, T tokens, M rows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.clustering.sorting import differentiable_sort, take_tokens
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.dispatch.dropless import DroplessReturn
from user_dir.fast_moe.dispatch.old_dispatch import combine, dispatch
from user_dir.fast_moe.gates import Assignment, BalanceGate
from user_dir.fast_moe.gathers import gather_rows, invert_permutation
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import MoeReport, RoutedPart, layer_sums
from user_dir.fast_moe.routing.slots import build_routing
from user_dir.fast_moe.tokens.ranked import PlacedTokens, RankedTokens, agree_on_sizes


@dataclass(frozen=True)
class ClusteringRule:
    """How tokens are clustered."""

    gate_type: str  # "softmax": scores learn through the sorting; "sigmoid": through a weight
    temperature: float
    inference_routing: str  # "greedy" or "balanced"


@dataclass(frozen=True)
class TokenClusters:
    """Where clustered tokens are, and how they get back; lives as long as one forward pass."""

    tokens: RankedTokens  # the clustered ones, rank by rank
    counts: list[int]  # rows of each expert served here
    expert_M: Tensor  # global id of the expert of each row
    row_VT: Tensor  # row of each clustered token; -1: none
    place_M: Tensor  # v·T' + t of each row
    order_VT: Tensor  # the permutation that sorted the tokens before they left
    back: DroplessReturn
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
        sorted_VTD = combine(self.to_rows(x_VTD), self.back)
        return take_tokens(sorted_VTD, invert_permutation(self.order_VT))


def cluster(
    x_VTD: Tensor,
    tokens: RankedTokens,
    *,
    gate: BalanceGate,
    rule: ClusteringRule,
    shares: Shares | None,
    topology: Topology,
    training: bool,
    detach: bool,
    by_step: bool,
    name: str,
) -> tuple[Tensor, TokenClusters]:
    """Send every token to the rank of its cluster. A collective.

    Only real tokens travel: their number is uneven at evaluation anyway, and known before.

    Args:
        shares: of the layers that follow; their quotas are agreed on anew.
        detach: keep the scores' gradient from the tokens.
        by_step: balance the tokens of each position among themselves.

    Returns:
        the tokens where they arrived, (V, T', D), and the way back.
    """
    scores_VTE = gate.expert_scores(x_VTD.detach() if detach else x_VTD)
    assignment = _assign(scores_VTE, tokens, gate, rule, training=training, by_step=by_step)
    # Experts in order, and so groups in order; padding last.
    key_VT = assignment.expert_VT.masked_fill(tokens.is_pad_VT, topology.num_experts)
    order_VT = key_VT.argsort(dim=-1, stable=True)
    if rule.gate_type == "softmax":
        sorted_VTD = differentiable_sort(
            x_VTD,
            gate.group_scores(scores_VTE),
            group_VT=assignment.group_VT,
            order_VT=order_VT,
            temperature=rule.temperature,
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
    batch, back = dispatch(sorted_VTD, routing, topology.plan(Reach.GLOBAL))
    assert batch.counts is not None
    assert isinstance(back, DroplessReturn)
    report = None
    if tokens.is_reported:
        sums = _sums(back, tokens, topology, assignment.seconds)
        report = MoeReport(name=name, kind=LayerKind.CLUSTER, balance_loss_V=None, sums=sums)
    clusters = _clusters(
        batch.counts,
        tokens,
        topology=topology,
        shares=shares,
        order_VT=order_VT,
        back=back,
        report=report,
    )
    return clusters.to_ranks(batch.rows), clusters


def _sums(
    back: DroplessReturn, tokens: RankedTokens, topology: Topology, assignment_seconds: float
) -> Tensor:
    is_pad_VT = tokens.is_pad_VT
    zero_V = torch.zeros(is_pad_VT.shape[0], device=is_pad_VT.device)
    part = RoutedPart(
        reach=Reach.GLOBAL,
        routing=back.routing,
        num_tokens_V=(~is_pad_VT).sum(dim=1),
        entropy_V=zero_V,
        experts_VE=topology.experts_in(Reach.GLOBAL, is_pad_VT.device),
        sent_bytes=back.sent_bytes(),
    )
    return layer_sums(
        [part],
        num_experts=topology.num_experts,
        balance_loss_V=zero_V,
        has_balance_V=zero_V,
        assignment_seconds=assignment_seconds,
    )


def _assign(
    scores_VTE: Tensor,
    tokens: RankedTokens,
    gate: BalanceGate,
    rule: ClusteringRule,
    *,
    training: bool,
    by_step: bool,
) -> Assignment:
    if not training and rule.inference_routing == "greedy":
        return gate.assign_greedily(scores_VTE, tokens.is_pad_VT)
    if by_step and not training:
        assert isinstance(tokens, PlacedTokens)
        return gate.assign_evenly(scores_VTE, tokens.step_VT)
    return gate.assign_evenly(scores_VTE, -tokens.is_pad_VT.long())


def _clusters(
    counts: list[int],
    tokens: RankedTokens,
    *,
    topology: Topology,
    shares: Shares | None,
    order_VT: Tensor,
    back: DroplessReturn,
    report: MoeReport | None,
) -> TokenClusters:
    """Lay the rows that arrived out rank by rank; T' is agreed on anew."""
    device = order_VT.device
    per_rank = topology.experts_per_rank
    num_hosted = topology.num_hosted
    by_rank = [sum(counts[v * per_rank : (v + 1) * per_rank]) for v in range(num_hosted)]
    sizes = agree_on_sizes(by_rank, shares, device=device)
    counts_V = torch.tensor(by_rank)
    starts_V1 = (counts_V.cumsum(0) - counts_V).unsqueeze(-1)
    places_T = torch.arange(sizes.num_tokens)
    is_pad_VT = places_T >= counts_V.unsqueeze(-1)
    row_VT = (starts_V1 + places_T).masked_fill(is_pad_VT, -1)
    place_M = (~is_pad_VT).flatten().nonzero().squeeze(-1)
    served = [e for rank in topology.hosted_ranks for e in topology.experts_of_rank(rank)]
    expert_M = torch.tensor(served).repeat_interleave(torch.tensor(counts))
    return TokenClusters(
        tokens=RankedTokens(
            is_pad_VT=is_pad_VT.to(device),
            counts=tuple(by_rank),
            sizes=sizes,
            noise=tokens.noise,
            is_reported=tokens.is_reported,
        ),
        counts=counts,
        expert_M=expert_M.to(device),
        row_VT=row_VT.to(device),
        place_M=place_M.to(device),
        order_VT=order_VT,
        back=back,
        report=report,
    )
