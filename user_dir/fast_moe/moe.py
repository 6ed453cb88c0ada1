"""Mixture-of-experts layers over the tokens of the hosted ranks.

`EfficientMoeLayer` is spelled `EffecientMoeLayer` in the release of Zeng and Xiong (2023), its
method `token_clustering_moe` `token_cluering_moe`. Shape suffixes: V hosted ranks, T tokens,
E experts, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.clustering.clusters import ClusteringRule, TokenClusters, cluster
from user_dir.fast_moe.config import CapacityRule, LayerKind
from user_dir.fast_moe.dispatch.round_trip import Returned, Trip, run_trips
from user_dir.fast_moe.gates import BalanceGate, Gated, GateSums, GShardGate, SwitchGate, gate_sums
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import MoeReport, RoutedPart, layer_sums
from user_dir.fast_moe.tokens.partition import REACH_IDS, reach_of_tokens, select_experts
from user_dir.fast_moe.tokens.ranked import RankedTokens


@dataclass(frozen=True)
class _Routed:
    """The tokens of one reach on the way to their experts."""

    reach: Reach
    gated: Gated
    experts_VE: Tensor
    trip: Trip

    def part(self, sums: GateSums, returned: Returned) -> RoutedPart:
        """What the statistics need of it."""
        return RoutedPart(
            reach=self.reach,
            routing=self.gated.routing,
            num_tokens_V=sums.num_tokens_V,
            entropy_V=sums.entropy_V,
            experts_VE=self.experts_VE,
            sent_bytes=returned.back.sent_bytes(),
        )


class EfficientMoeLayer(nn.Module):
    """Routes tokens to experts within their reach and combines what these answer.

    Args:
        gate: reads the full width of a token and scores all experts.
        experts: on all widths; for `scomoe_dmodel` a module dictionary with those of each slice,
            by the reach's name.
        capacity: slots of an expert, from the number of tokens.
        name: tells this layer's routing noise from that of the others, "encoder.1" say.
        shares: α and β of SEQ and FEAT; for CLUSTER those of the layers that follow.
        projection: FEAT only: maps before the split and after the concatenation, if any.
        clustering: CLUSTER only.
        overlap: let SEQ and FEAT compute near tokens while far ones travel.
    """

    def __init__(
        self,
        *,
        gate: SwitchGate | GShardGate | BalanceGate,
        experts: nn.Module,
        topology: Topology,
        capacity: CapacityRule,
        name: str,
        kind: LayerKind = LayerKind.PLAIN,
        shares: Shares | None = None,
        projection: tuple[nn.Module, nn.Module] | None = None,
        clustering: ClusteringRule | None = None,
        overlap: bool = True,
    ):
        super().__init__()
        self.overlap = overlap
        self.gate: SwitchGate | GShardGate | BalanceGate = gate
        self.experts = experts
        self.topology = topology
        self.capacity = capacity
        self.name = name
        self.kind = kind
        self.shares = shares or Shares.of(0, 0)
        self.clustering = clustering
        self.projection = nn.ModuleList(projection) if projection else None
        for reach in (Reach.GLOBAL, *self.shares.reaches()):  # one order on all processes
            topology.plan(reach)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """Apply the layer; 0 where every choice of a token was dropped, and at padding."""
        if self.kind is LayerKind.SEQ:
            return self.scomoe_seq(x_VTD, tokens)
        if self.kind is LayerKind.FEAT:
            return self.scomoe_dmodel(x_VTD, tokens)
        z_VTE = self._routing_gate.logits(x_VTD)
        routed = self._route(x_VTD, z_VTE, tokens.is_pad_VT, Reach.GLOBAL, self.experts, tokens)
        returned = self._run([routed])
        report = self._report([routed], returned, tokens)
        return returned[0].y_VTD, report

    def scomoe_seq(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Seq: a share of a rank's tokens stays there, another one in the node.

        The experts are the same at every reach (section 3.1 of the paper).
        """
        shares = self.shares
        z_VTE = self._routing_gate.logits(x_VTD)
        reach_VT = reach_of_tokens(z_VTE, tokens, shares=shares, topology=self.topology)
        routed = [
            self._route(x_VTD, z_VTE, reach_VT != REACH_IDS[reach], reach, self.experts, tokens)
            for reach in shares.reaches()
        ]
        returned = self._run(routed)
        # Every token has one reach and is 0 in the others.
        y_VTD = torch.stack([one.y_VTD for one in returned]).sum(0)
        return y_VTD, self._report(routed, returned, tokens)

    def scomoe_dmodel(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Feat: a share of every token's features stays on its rank, another in the node.

        Each slice has experts of its own (section 3.2 of the paper).
        """
        z_VTE = self._routing_gate.logits(x_VTD)
        before, after = self.projection or (nn.Identity(), nn.Identity())
        features = self.shares.features(x_VTD.shape[-1])
        slices = before(x_VTD).split([features[reach] for reach in Reach], dim=-1)
        routed = []
        for reach, slice_VTD in zip(Reach, slices, strict=True):
            if features[reach]:
                experts = self.experts[reach.value]  # type: ignore[index]
                routed.append(
                    self._route(
                        slice_VTD.contiguous(), z_VTE, tokens.is_pad_VT, reach, experts, tokens
                    )
                )
        returned = self._run(routed)
        y_VTD = torch.cat([one.y_VTD for one in returned], dim=-1)
        return after(y_VTD), self._report(routed, returned, tokens)

    def token_clustering_moe(
        self, x_VTD: Tensor, tokens: RankedTokens, *, detach: bool = False, by_step: bool = False
    ) -> tuple[Tensor, TokenClusters]:
        """Send every token to the rank of its cluster (section 3.3 of the paper).

        The tokens stay there until `TokenClusters.restore`; `cluster_experts` runs the expert of
        each cluster.

        Args:
            detach: keep the scores' gradient from the tokens, as the decoder does in training.
            by_step: balance the tokens of each position among themselves, as in decoding.

        Returns:
            the tokens where they arrived, (V, T', D), and the plan that brings them back.
        """
        gate, rule = self._clustering
        return cluster(
            x_VTD,
            tokens,
            gate=gate,
            rule=rule,
            shares=self.shares,
            topology=self.topology,
            training=self.training,
            detach=detach,
            by_step=by_step,
            name=self.name,
        )

    def cluster_experts(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor:
        """Apply to every clustered token the expert that it was sent to; see `cluster_weight`."""
        rows_MD = clusters.to_rows(x_VTD)
        return clusters.to_ranks(self.experts(rows_MD, clusters.counts))

    def cluster_weight(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor | None:
        """What a clustered token's expert counts, (V, T', 1); None where it counts fully."""
        gate, rule = self._clustering
        if rule.gate_type != "sigmoid":
            return None
        weight_M = gate.mixing_weight(clusters.to_rows(x_VTD), clusters.expert_M)
        return clusters.to_ranks(weight_M.unsqueeze(-1))

    @property
    def _routing_gate(self) -> SwitchGate | GShardGate:
        assert not isinstance(self.gate, BalanceGate)
        return self.gate

    @property
    def _clustering(self) -> tuple[BalanceGate, ClusteringRule]:
        assert isinstance(self.gate, BalanceGate)
        assert self.clustering is not None
        return self.gate, self.clustering

    def _route(
        self,
        x_VTD: Tensor,
        z_VTE: Tensor,
        is_absent_VT: Tensor,
        reach: Reach,
        experts: nn.Module,
        tokens: RankedTokens,
    ) -> _Routed:
        """Choose experts in reach of their rank for the tokens that are present."""
        topology = self.topology
        experts_VE = topology.experts_in(reach, x_VTD.device)
        if reach is not Reach.GLOBAL:
            z_VTE = select_experts(z_VTE, experts_VE)
        noise = None
        if tokens.noise is not None:
            noise = tokens.noise.of_layer(self.name, topology.hosted_ranks, x_VTD.device)
        gated = self._routing_gate.route(
            z_VTE, is_absent_VT, capacity=self._capacity(reach, tokens), noise=noise
        )
        trip = Trip(x_VTD, gated.routing, topology.plan(reach), experts)
        return _Routed(reach=reach, gated=gated, experts_VE=experts_VE, trip=trip)

    def _run(self, routed: Sequence[_Routed]) -> list[Returned]:
        return run_trips([one.trip for one in routed], overlap=self.overlap)

    def _capacity(self, reach: Reach, tokens: RankedTokens) -> int | None:
        """Slots of an expert for one rank's tokens of a reach; None: as many as it takes."""
        num_experts = self.topology.num_experts_in(reach)
        largest = tokens.sizes.quotas[reach] if self.kind is LayerKind.SEQ else tokens.num_tokens
        slots = self.capacity.slots(largest, num_experts, training=self.training)
        if slots is None or reach is not Reach.LOCAL:
            return slots
        # What stays on its rank is never dropped: a slot for every token wastes nothing where
        # a token goes to all the rank's experts; with more experts exact counts are cheaper. The
        # host has to wait for those: up to twice the arithmetic is the lesser evil on a GPU
        # (reasoned, not measured).
        waste = 1 if tokens.is_pad_VT.device.type == "cpu" else 2
        return max(1, largest) if num_experts <= waste * self.capacity.top_k else None

    def _report(
        self, routed: Sequence[_Routed], returned: Sequence[Returned], tokens: RankedTokens
    ) -> MoeReport | None:
        """The layer's balance loss is the mean over its reaches with something to balance."""
        if not tokens.is_reported:
            return None
        topology = self.topology
        gates = [gate_sums(one.gated) for one in routed]
        losses, counts = [], []
        for one, of_gate in zip(routed, gates, strict=True):
            has_choice = topology.num_experts_in(one.reach) > 1
            is_counted_V = (of_gate.num_tokens_V > 0) & has_choice
            losses.append(of_gate.balance_loss_V * is_counted_V)
            counts.append(is_counted_V)
        count_V = torch.stack(counts).sum(0)
        loss_V = torch.stack(losses).sum(0) / count_V.clamp(min=1)
        sums = layer_sums(
            [
                one.part(of_gate, back)
                for one, of_gate, back in zip(routed, gates, returned, strict=True)
            ],
            num_experts=topology.num_experts,
            balance_loss_V=loss_V,
            has_balance_V=count_V > 0,
        )
        return MoeReport(name=self.name, kind=self.kind, balance_loss_V=loss_V, sums=sums)
