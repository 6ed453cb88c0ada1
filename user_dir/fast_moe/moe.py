"""Mixture-of-experts layers over the tokens of the hosted ranks.

The way of a token, in SCoMoE-Seq (`EfficientMoeLayer.scomoe_seq`); the shape that each step leaves
behind is at its end. V hosted ranks, T tokens of a rank, D width, E experts of the layer, K choices
of a token, and of one reach R experts, C slots of an expert for one rank, L experts served here:

 1. The gate scores it for every expert (`gates.py`).                             z (V, T, E)
 2. It is given a reach: its rank, its node, everywhere (`tokens/partition.py`).  reach (V, T)
 3. For each reach the gate chooses experts among those in reach (`gates.py`),    ids (V, T, K)
    and each choice gets a slot there and a weight (`routing/slots.py`).          slots, weights
 4. A trip for each reach takes four steps, in the order of `dispatch/schedule.py`:
    a. `send`: its row is copied to where it leaves from (`dispatch/trip.py`;     (V·R·C, D)
       with exact counts: `dispatch/dropless.py`), and the all-to-all starts      or (M, D)
       (`exchange/all_to_all.py`, in the order of `exchange/plan.py`);
    b. `arrive`: the rows for the experts of this process are there;              (L, M, D)
       the experts work on them (`experts/`);                                     the same
    c. `answer`: the outputs start on the way back;                               (V·R·C, D)
    d. `collect`: the K outputs of the token are added up by weight.              (V, T, D)
 5. The reaches are added up: a token is 0 in all but its own.                    y (V, T, D)
 6. If anyone reads it, the layer reports (`report.py`).

A plain layer has one reach; SCoMoE-Feat makes a trip with each slice of the features instead of
each reach of the tokens, and concatenates. Padding is no token: it is routed nowhere and stays 0.

`EfficientMoeLayer` is spelled `EffecientMoeLayer` in the release of Zeng and Xiong (2023), its
method `token_clustering_moe` `token_cluering_moe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.clustering.assignment import ClusterGate
from user_dir.fast_moe.clustering.clusters import TokenClusters, cluster
from user_dir.fast_moe.config import CapacityRule, LayerKind
from user_dir.fast_moe.dispatch.capacity import CapacityTrip
from user_dir.fast_moe.dispatch.dropless import DroplessTrip
from user_dir.fast_moe.dispatch.schedule import run_trips
from user_dir.fast_moe.dispatch.trip import Trip
from user_dir.fast_moe.gates import Gated, GShardGate, SwitchGate
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import MoeReport, RoutedPart, make_report
from user_dir.fast_moe.tokens.partition import REACH_IDS, TokenPartition, select_experts
from user_dir.fast_moe.tokens.ranked import RankedTokens


@dataclass(frozen=True)
class _Routed:
    """What the gate decided for the tokens of one reach."""

    reach: Reach
    gated: Gated
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank


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
        temperature: CLUSTER only: of the softmax that clustering learns through.
        overlap: let SEQ and FEAT compute near tokens while far ones travel.
        partition: SEQ only: says how far each token may travel.
        everywhere_at_evaluation: give all tokens of SEQ the whole reach then.
        balance_everywhere: report what a balance loss over the tokens of all ranks needs.
    """

    def __init__(
        self,
        *,
        gate: SwitchGate | GShardGate | ClusterGate,
        experts: nn.Module,
        topology: Topology,
        capacity: CapacityRule,
        name: str,
        kind: LayerKind = LayerKind.PLAIN,
        shares: Shares | None = None,
        projection: tuple[nn.Module, nn.Module] | None = None,
        temperature: float = 0.5,
        overlap: bool = True,
        partition: TokenPartition | None = None,
        everywhere_at_evaluation: bool = False,
        balance_everywhere: bool = False,
    ):
        super().__init__()
        self.overlap = overlap
        self.everywhere_at_evaluation = everywhere_at_evaluation
        self.balance_everywhere = balance_everywhere
        self.gate: SwitchGate | GShardGate | ClusterGate = gate
        self.experts = experts
        self.topology = topology
        self.capacity = capacity
        self.name = name
        self.kind = kind
        self.shares = shares or Shares.of(0, 0)
        self.temperature = temperature
        self.projection = nn.ModuleList(projection) if projection else None
        self.partition = partition
        for reach in (Reach.GLOBAL, *self.shares.reaches()):  # one order on all processes
            topology.plan(reach)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """Apply the layer; 0 where every choice of a token was dropped, and at padding."""
        if self._divides_tokens:
            return self.scomoe_seq(x_VTD, tokens)
        if self.kind is LayerKind.FEAT:
            return self.scomoe_dmodel(x_VTD, tokens)
        z_VTE = self._routing_gate.logits(x_VTD)
        routed = self._route(z_VTE, tokens.is_pad_VT, Reach.GLOBAL, tokens)
        trips = [self._trip(x_VTD, routed, self.experts, tokens)]
        (y_VTD,) = run_trips(trips, overlap=self.overlap)
        return y_VTD, self._report([routed], trips, tokens)

    def scomoe_seq(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Seq: a share of a rank's tokens stays there, another one in the node.

        The experts are the same at every reach (section 3.1 of the paper).
        """
        z_VTE = self._routing_gate.logits(x_VTD)
        assert self.partition is not None
        reach_VT = self.partition(z_VTE, tokens)
        routed = [
            self._route(z_VTE, reach_VT != REACH_IDS[reach], reach, tokens)
            for reach in self.shares.reaches()
        ]
        trips = [self._trip(x_VTD, one, self.experts, tokens) for one in routed]
        y_VTD = torch.stack(run_trips(trips, overlap=self.overlap)).sum(0)
        return y_VTD, self._report(routed, trips, tokens)

    def scomoe_dmodel(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Feat: a share of every token's features stays on its rank, another in the node.

        Each slice has experts of its own (section 3.2 of the paper).
        """
        z_VTE = self._routing_gate.logits(x_VTD)
        before, after = self.projection or (nn.Identity(), nn.Identity())
        features = self.shares.features(x_VTD.shape[-1])
        slices = before(x_VTD).split([features[reach] for reach in Reach], dim=-1)
        routed, trips = [], []
        for reach, slice_VTD in zip(Reach, slices, strict=True):
            if features[reach]:
                routed.append(self._route(z_VTE, tokens.is_pad_VT, reach, tokens))
                experts = self.experts[reach.value]  # type: ignore[index]
                trips.append(self._trip(slice_VTD.contiguous(), routed[-1], experts, tokens))
        y_VTD = torch.cat(run_trips(trips, overlap=self.overlap), dim=-1)
        return after(y_VTD), self._report(routed, trips, tokens)

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
        return cluster(
            x_VTD,
            tokens,
            gate=self._cluster_gate,
            temperature=self.temperature,
            shares=self.shares,
            topology=self.topology,
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
        gate = self._cluster_gate
        if not gate.learns_by_weight:
            return None
        weight_M = gate.mixing_weight(clusters.to_rows(x_VTD), clusters.expert_M)
        return clusters.to_ranks(weight_M.unsqueeze(-1))

    @property
    def _divides_tokens(self) -> bool:
        """Whether tokens have different reaches."""
        everywhere = self.everywhere_at_evaluation and not self.training
        return self.kind is LayerKind.SEQ and not everywhere

    @property
    def _divides_by_threshold(self) -> bool:
        """Whether how many tokens have a reach is known on the device alone."""
        return self.partition is not None and self.partition.by_threshold[self.training]

    @property
    def _routing_gate(self) -> SwitchGate | GShardGate:
        assert not isinstance(self.gate, ClusterGate)
        return self.gate

    @property
    def _cluster_gate(self) -> ClusterGate:
        assert isinstance(self.gate, ClusterGate)
        return self.gate

    def _route(
        self, z_VTE: Tensor, is_absent_VT: Tensor, reach: Reach, tokens: RankedTokens
    ) -> _Routed:
        """Choose experts in reach of their rank for the tokens that are present."""
        topology = self.topology
        experts_VE = topology.experts_in(reach, z_VTE.device)
        if reach is not Reach.GLOBAL:
            z_VTE = select_experts(z_VTE, experts_VE)
        noise = None
        if tokens.noise is not None:
            noise = tokens.noise.of_layer(self.name, topology.hosted_ranks, z_VTE.device)
        gated = self._routing_gate.route(
            z_VTE, is_absent_VT, capacity=self._capacity(reach, tokens), noise=noise
        )
        return _Routed(reach, gated, experts_VE)

    def _trip(
        self, x_VTD: Tensor, routed: _Routed, experts: nn.Module, tokens: RankedTokens
    ) -> Trip:
        routing, plan = routed.gated.routing, self.topology.plan(routed.reach)
        if routing.capacity is not None:
            return CapacityTrip(x_VTD, routing, plan, experts)
        most_rows = None
        if routed.reach is Reach.LOCAL:
            most_rows = routing.num_choices * sum(self._most_tokens(routed.reach, tokens))
        return DroplessTrip(x_VTD, routing, plan, experts, most_rows=most_rows)

    def _most_tokens(self, reach: Reach, tokens: RankedTokens) -> Sequence[int]:
        """How many tokens of each hosted rank have that reach; by threshold, may have."""
        by_quota = self._divides_tokens and not self._divides_by_threshold
        return tokens.sizes.quotas[reach] if by_quota else tokens.sizes.counts

    def _capacity(self, reach: Reach, tokens: RankedTokens) -> int | None:
        """Slots of an expert for one rank's tokens of a reach; None: as many as it takes."""
        num_experts = self.topology.num_experts_in(reach)
        sizes = tokens.sizes
        largest = sizes.largest_quotas[reach] if self._divides_tokens else sizes.num_tokens
        slots = self.capacity.slots(largest, num_experts, training=self.training)
        if slots is None or reach is not Reach.LOCAL:
            return slots
        if self._divides_by_threshold:  # as many tokens as there are may stay
            return None
        # What stays on its rank is never dropped: a slot for every token wastes nothing where
        # a token goes to all the rank's experts; with more experts exact counts are cheaper, on a
        # GPU with more than twice as many: one batched product is faster than a grouped one
        # (reasoned, not measured).
        waste = 1 if tokens.is_pad_VT.device.type == "cpu" else 2
        return max(1, largest) if num_experts <= waste * self.capacity.top_k else None

    def _report(
        self, routed: Sequence[_Routed], trips: Sequence[Trip], tokens: RankedTokens
    ) -> MoeReport | None:
        if not tokens.is_reported:
            return None
        parts = [
            RoutedPart(
                reach=one.reach,
                routing=one.gated.routing,
                experts_VE=one.experts_VE,
                sent_bytes=trip.sent_bytes(),
                gated=one.gated,
            )
            for one, trip in zip(routed, trips, strict=True)
        ]
        return make_report(
            parts,
            name=self.name,
            kind=self.kind,
            num_experts=self.topology.num_experts,
            balance_everywhere=self.balance_everywhere,
        )
