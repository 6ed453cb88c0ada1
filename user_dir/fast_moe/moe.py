"""Mixture-of-experts layers over the tokens of the hosted ranks.

The way of a token, in SCoMoE-Seq (`EfficientMoeLayer.scomoe_seq`); the shape that each step leaves
behind is at its end. V hosted ranks, T tokens of a rank, D width, E experts of the layer, K choices
of a token, and of one reach R experts, C slots of an expert for one rank, L experts served here:

 1. The gate scores it for every expert (`gating/gates.py`).                      z (V, T, E)
 2. It is given a reach: its rank, its node, everywhere (`tokens/partition.py`).  reach (V, T)
 3. For each reach the gate chooses experts in reach (`gating/gates.py`),         ids (V, T, K)
    and each choice gets a slot there and a weight (`routing/slots.py`).          slots, weights
 4. A trip for each reach takes four steps, in the order of `dispatch/schedule.py`:
    a. `send`: its row is copied to where it leaves from (`dispatch/direct.py`;   (V·R·C, D)
       with exact counts: `dispatch/dropless.py`), and the all-to-all starts      or (M, D)
       (`exchange/all_to_all.py`, in the order of `exchange/plan.py`);
    b. `arrive`: the rows for the experts of this process are there;              (L, M, D)
       the experts work on them (`experts/`);                                     the same
    c. `answer`: the outputs start on the way back;                               (V·R·C, D)
    d. `collect`: the K outputs of the token are added up by weight.              (V, T, D)
 5. The reaches are added up: a token is 0 in all but its own.                    y (V, T, D)
 6. If anyone reads it, the layer reports (`report.py`).

In an encoder experts may choose tokens instead (`gating/expert_choice.py`); the rest is the same.
A plain layer has one reach, and a bottleneck sends narrow rows; SCoMoE-Feat makes a trip with each
slice of the features instead of each reach of the tokens, and concatenates. A token may go to
each node once (`dispatch/hierarchical.py`). Padding is no token: it is routed nowhere and stays 0.

`EfficientMoeLayer` is spelled `EffecientMoeLayer` in the release of Zeng and Xiong (2023); its
method `token_cluering_moe` is in `clustering/layer.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.dispatch.capacity import CapacityTrip
from user_dir.fast_moe.dispatch.dropless import DroplessTrip
from user_dir.fast_moe.dispatch.hierarchical import HierarchicalTrip
from user_dir.fast_moe.dispatch.schedule import run_trips
from user_dir.fast_moe.dispatch.trip import Trip
from user_dir.fast_moe.experts.shared import SharedExpert
from user_dir.fast_moe.gating.balance import Balance, RoutedPart
from user_dir.fast_moe.gating.dropout import GatingDropout
from user_dir.fast_moe.gating.expert_choice import ExpertChoiceGate
from user_dir.fast_moe.gating.gates import GShardGate, InReach, SwitchGate
from user_dir.fast_moe.gating.masking import OutputMasking
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import MoeReport, make_report
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.tokens.partition import REACH_IDS, TokenPartition, select_experts
from user_dir.fast_moe.tokens.ranked import RankedTokens

NO_DROPOUT, NO_MASKING = GatingDropout(), OutputMasking()
_SAME = nn.Identity()


class EfficientMoeLayer(nn.Module):
    """Routes tokens to experts within their reach and combines what these answer.

    Args:
        gate: reads the full width of a token and scores all experts.
        experts: on all widths; for `scomoe_dmodel` a module dictionary with those of each slice,
            by the reach's name.
        capacity: slots of an expert, from the number of tokens.
        name: tells this layer's routing noise from that of the others, "encoder.1" say.
        shares: α and β of SEQ and FEAT.
        projection: maps of the tokens before they leave and of what comes back: of FEAT, if any,
            before the split and after the concatenation; of BOTTLENECK, to its width and back.
        hierarchical: send a token once to each node, if experts lie on several.
        overlap: let SEQ and FEAT compute near tokens while far ones travel.
        partition: SEQ only: says how far each token may travel.
        everywhere_at_evaluation: give all tokens of SEQ the whole reach then.
        balance: keeps the load of the experts even.
        dropout: lets tokens stay on their rank in some updates.
        masking: takes outputs for 0 at random.
        shared: what every token passes beside its experts.
    """

    def __init__(
        self,
        *,
        gate: SwitchGate | GShardGate | ExpertChoiceGate,
        experts: nn.Module,
        topology: Topology,
        capacity: CapacityRule,
        name: str,
        kind: LayerKind = LayerKind.PLAIN,
        shares: Shares | None = None,
        projection: tuple[nn.Module, nn.Module] | None = None,
        hierarchical: bool = False,
        overlap: bool = True,
        partition: TokenPartition | None = None,
        everywhere_at_evaluation: bool = False,
        balance: Balance | None = None,
        dropout: GatingDropout = NO_DROPOUT,
        masking: OutputMasking = NO_MASKING,
        shared: SharedExpert | None = None,
    ):
        super().__init__()
        self.overlap = overlap
        self.everywhere_at_evaluation = everywhere_at_evaluation
        self.dropout, self.masking = dropout, masking
        self.gate, self.experts, self.topology = gate, experts, topology
        self.capacity = capacity
        self.name = name
        self.kind = kind
        self.shares = shares or Shares.of(0, 0)
        self.projection = nn.ModuleList(projection) if projection else None
        self.partition = partition
        self.balance = balance or Balance()
        self.shared = shared
        for reach in (Reach.GLOBAL, *self.shares.reaches()):  # one order on all processes
            topology.plan(reach)
        self.hierarchical = hierarchical and topology.nodes_in_reach > 1
        if self.hierarchical:
            topology.plan_between_nodes()
            topology.plan(Reach.NODE)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """Apply the layer; 0 where every choice of a token was dropped, and at padding."""
        stays = self.dropout.is_on(tokens.noise)
        if stays and self.dropout.skips:
            return self._skip(x_VTD, tokens)
        if self.kind is LayerKind.FEAT:
            return self.scomoe_dmodel(x_VTD, tokens, stays=stays)
        if self._divides_tokens and not stays:
            return self.scomoe_seq(x_VTD, tokens)
        z_VTE = self.gate.logits(x_VTD)
        reach = Reach.LOCAL if stays else Reach.GLOBAL
        before, after = self.projection or (_SAME, _SAME)
        part = self._route(z_VTE, tokens.is_pad_VT, reach, tokens, everybody=True)
        trips = [self._trip(before(x_VTD), part, self.experts, tokens, everybody=True)]
        (y_VTD,) = run_trips(trips, overlap=self.overlap)
        return self._finish(x_VTD, after(y_VTD), [part], trips, z_VTE, tokens)

    def scomoe_seq(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Seq: a share of a rank's tokens stays there, another one in the node.

        The experts are the same at every reach (section 3.1 of the paper).
        """
        z_VTE = self.gate.logits(x_VTD)
        assert self.partition is not None
        reach_VT = self.partition(z_VTE, tokens)
        parts = [
            self._route(z_VTE, reach_VT != REACH_IDS[reach], reach, tokens)
            for reach in self.shares.reaches()
        ]
        trips = [self._trip(x_VTD, part, self.experts, tokens) for part in parts]
        y_VTD = torch.stack(run_trips(trips, overlap=self.overlap)).sum(0)
        return self._finish(x_VTD, y_VTD, parts, trips, z_VTE, tokens)

    def scomoe_dmodel(
        self, x_VTD: Tensor, tokens: RankedTokens, *, stays: bool = False
    ) -> tuple[Tensor, MoeReport | None]:
        """SCoMoE-Feat: a share of every token's features stays on its rank, another in the node.

        Each slice has experts of its own (section 3.2 of the paper).

        Args:
            stays: let all slices stay on their rank.
        """
        z_VTE = self.gate.logits(x_VTD)
        before, after = self.projection or (_SAME, _SAME)
        features = self.shares.features(x_VTD.shape[-1])
        slices = before(x_VTD).split([features[reach] for reach in Reach], dim=-1)
        parts, trips = [], []
        for of_slice, slice_VTD in zip(Reach, slices, strict=True):
            if features[of_slice]:
                reach = Reach.LOCAL if stays else of_slice
                part = self._route(z_VTE, tokens.is_pad_VT, reach, tokens, everybody=True)
                experts = self.experts[of_slice.value]  # type: ignore[index]
                slice_VTD = slice_VTD.contiguous()
                trips.append(self._trip(slice_VTD, part, experts, tokens, everybody=True))
                parts.append(part)
        y_VTD = torch.cat(run_trips(trips, overlap=self.overlap), dim=-1)
        return self._finish(x_VTD, after(y_VTD), parts, trips, z_VTE, tokens)

    def _skip(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, MoeReport | None]:
        """No expert for any token."""
        z_VTE = self.gate.logits(x_VTD)
        nobody_VT = torch.ones_like(tokens.is_pad_VT)
        part = self._route(z_VTE, nobody_VT, Reach.LOCAL, tokens, everybody=True)
        return self._finish(x_VTD, torch.zeros_like(x_VTD), [part], [], z_VTE, tokens)

    @property
    def _divides_tokens(self) -> bool:
        """Whether tokens have different reaches."""
        everywhere = self.everywhere_at_evaluation and not self.training
        return self.kind is LayerKind.SEQ and not everywhere

    @property
    def _divides_by_threshold(self) -> bool:
        """Whether how many tokens have a reach is known on the device alone."""
        return self.partition is not None and self.partition.by_threshold[self.training]

    def _route(
        self,
        z_VTE: Tensor,
        is_absent_VT: Tensor,
        reach: Reach,
        tokens: RankedTokens,
        *,
        everybody: bool = False,
    ) -> RoutedPart:
        """Choose experts in reach of their rank for the tokens that are present.

        Args:
            everybody: all tokens of a rank may have that reach, not only its quota.
        """
        topology = self.topology
        experts_VE = topology.experts_in(reach, z_VTE.device)
        if reach is not Reach.GLOBAL:
            z_VTE = select_experts(z_VTE, experts_VE)
        noise = None
        if tokens.noise is not None:
            noise = tokens.noise.of_layer(self.name, topology.hosted_ranks, z_VTE.device)
        within = InReach(
            reach,
            experts_VE,
            num_nodes=topology.layout.num_nodes if reach is Reach.GLOBAL else 1,
            noise=noise,
            bias_V1E=self.balance.bias_of(experts_VE),
            # What all tokens do says nothing about those that SEQ gives this reach.
            micro_batch=None if everybody and self.kind is LayerKind.SEQ else tokens.micro_batch,
        )
        capacity = self.capacity.slots_in_reach(
            reach,
            tokens.sizes,
            num_experts=experts_VE.shape[1],
            training=self.training,
            by_quota=not everybody,
            any_number=self._divides_by_threshold,
            on_cpu=z_VTE.device.type == "cpu",
        )
        gated = self.gate.route(z_VTE, is_absent_VT, within, capacity=capacity)
        routing = gated.routing
        if self.masking.is_on:
            routing = self.masking.apply(
                routing, tokens.noise, layer=self.name, topology=self.topology
            )
        return RoutedPart(reach, routing, experts_VE, gated)

    def _trip(
        self,
        x_VTD: Tensor,
        part: RoutedPart,
        experts: nn.Module,
        tokens: RankedTokens,
        *,
        everybody: bool = False,
    ) -> Trip:
        routing, topology = part.routing, self.topology
        if self.hierarchical and part.reach is Reach.GLOBAL:
            between, within = topology.plan_between_nodes(), topology.plan(Reach.NODE)
            return HierarchicalTrip(x_VTD, routing, experts, between=between, within=within)
        plan = topology.plan(part.reach)
        if routing.capacity is not None:
            return CapacityTrip(x_VTD, routing, plan, experts)
        most_rows = None
        if part.reach is Reach.LOCAL:
            by_quota = not everybody and not self._divides_by_threshold
            sizes = tokens.sizes
            counts = sizes.quotas[part.reach] if by_quota else sizes.counts
            most_rows = routing.num_choices * sum(counts)
        return DroplessTrip(x_VTD, routing, plan, experts, most_rows=most_rows)

    def _finish(
        self,
        x_VTD: Tensor,
        y_VTD: Tensor,
        parts: Sequence[RoutedPart],
        trips: Sequence[Trip],
        z_VTE: Tensor,
        tokens: RankedTokens,
    ) -> tuple[Tensor, MoeReport | None]:
        """Add what is shared to what the experts gave; report."""
        use = None
        if self.shared is not None:
            noise = None
            if tokens.noise is not None:
                ranks = self.topology.hosted_ranks
                noise = tokens.noise.of_layer(f"{self.name}/mixing", ranks, x_VTD.device)
            y_VTD, use = self.shared(x_VTD, y_VTD, tokens.is_pad_VT, noise)
        self.balance.see(parts, tokens)
        if not tokens.is_reported:
            return y_VTD, None
        return y_VTD, make_report(
            parts,
            sent_bytes=[trip.sent_bytes() for trip in trips] or [(0, 0, 0)],
            losses=self.balance.losses(parts, z_VTE, tokens, self.topology),
            name=self.name,
            kind=self.kind,
            num_experts=self.topology.num_experts,
            use=use,
            directions=tokens.directions,
        )
