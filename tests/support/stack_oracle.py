"""SCoMoE as plain loops over nodes, ranks, tokens and experts; everything is differentiable."""

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.key_oracle import KeyOracle
from tests.support.oracle import (
    RankResult,
    capacity_of,
    choose_by_expert,
    feed_forward,
    route_rank,
)
from tests.support.score_oracle import ScoreOracle
from tests.support.shared_oracle import SharedOracle
from tests.support.stack_cases import DIM, StackCase
from user_dir.fast_moe.config import LayerKind

EXPERT_WEIGHTS = ("weight1_LDH", "bias1_LH", "weight2_LHD", "bias2_LD")


@dataclass
class OracleRun:
    outputs: list[Tensor]
    balance_losses: list[list[Tensor]]
    reach_counts: Counter = field(default_factory=Counter)
    num_choices: int = 0
    num_dropped: int = 0


class StackOracle:
    """A dense feed-forward layer and the mixtures behind it.

    Args:
        weights: the tensors of the stack's state dictionary.
    """

    def __init__(self, case: StackCase, weights: dict[str, Tensor]):
        self.case, self.config, self.weights = case, case.config, weights
        self.num_nodes, self.ranks_per_node = case.layout
        self.num_ranks = self.num_nodes * self.ranks_per_node
        self.num_experts = self.config.num_experts
        self.per_rank = self.num_experts // self.num_ranks
        self.alpha = Fraction(str(self.config.ratio1))
        self.beta = Fraction(str(self.config.ratio2))
        self.run = OracleRun(outputs=[], balance_losses=[])
        self.beside = SharedOracle(case, weights)

    def __call__(self, inputs: list[Tensor]) -> OracleRun:
        x = [self.dense(x_TD) for x_TD in inputs]
        names = [f"{self.case.stack}.moe{i}" for i in range(len(self.case.kinds))]
        kinds = list(self.case.kinds)
        homes = None
        if kinds[0] is LayerKind.CLUSTER:
            x, homes = self.cluster(x)
            kinds, names = kinds[1:], names[1:]
        for index, (kind, name) in enumerate(zip(kinds, names, strict=True)):
            x = self.mixture(x, kind, f"layers.{index}", name)
        if homes is not None:
            restored = [[None] * len(x_TD) for x_TD in inputs]
            for rank, x_TD in enumerate(x):
                for place, (home, token) in enumerate(homes[rank]):
                    restored[home][token] = x_TD[place]
            x = [stack_rows(rows) for rows in restored]
        self.run.outputs = x
        return self.run

    # --- sublayers

    def norm(self, x_TD: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x_TD, (DIM,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        )

    def before(self, x_TD: Tensor, name: str) -> Tensor:
        return self.norm(x_TD, f"{name}.layer_norm") if self.case.normalize_before else x_TD

    def after(self, x_TD: Tensor, y_TD: Tensor, name: str) -> Tensor:
        if self.config.layernorm_after_moe and name != "feed_forward":
            y_TD = self.norm(y_TD, f"{name}.norm_after")
        x_TD = x_TD + y_TD
        return x_TD if self.case.normalize_before else self.norm(x_TD, f"{name}.layer_norm")

    def dense(self, x_TD: Tensor) -> Tensor:
        w = self.weights
        y_TD = self.before(x_TD, "feed_forward")
        y_TD = F.linear(y_TD, w["feed_forward.fc1.weight"], w["feed_forward.fc1.bias"]).relu()
        y_TD = F.linear(y_TD, w["feed_forward.fc2.weight"], w["feed_forward.fc2.bias"])
        return self.after(x_TD, y_TD, "feed_forward")

    def experts(self, prefix: str) -> list[tuple[Tensor, ...]]:
        stacked = [self.weights[f"{prefix}.{name}"] for name in EXPERT_WEIGHTS]
        return [tuple(tensor[e] for tensor in stacked) for e in range(self.num_experts)]

    def experts_in_reach(self, reach: str, rank: int) -> list[int]:
        if reach == "local":
            ranks = [rank]
        elif reach == "node":
            node = rank // self.ranks_per_node
            ranks = [r for r in range(self.num_ranks) if r // self.ranks_per_node == node]
        else:
            ranks = list(range(self.num_ranks))
        return [r * self.per_rank + i for r in ranks for i in range(self.per_rank)]

    # --- plain, Seq, Feat

    def mixture(self, x: list[Tensor], kind: LayerKind, layer: str, name: str) -> list[Tensor]:
        gate_ED = self.weights[f"{layer}.moe.gate.projection.weight"]
        normed = [self.before(x_TD, layer) for x_TD in x]
        if kind is LayerKind.FEAT:
            results = self.feat(normed, gate_ED, layer, name)
        elif kind is LayerKind.BOTTLENECK:
            results = self.bottleneck(normed, gate_ED, layer, name)
        else:
            reaches = [
                self.reaches(x_TD, gate_ED, rank, kind, layer) for rank, x_TD in enumerate(normed)
            ]
            results = self.by_token(normed, reaches, gate_ED, layer, name)
        outputs, losses = zip(*results, strict=True)
        if not self.experts_choose:
            self.run.balance_losses.append(list(losses))
        outputs = [
            self.beside.add(x_TD, y_TD, layer, name, rank)
            for rank, (x_TD, y_TD) in enumerate(zip(normed, outputs, strict=True))
        ]
        return [self.after(x_TD, y_TD, layer) for x_TD, y_TD in zip(x, outputs, strict=True)]

    @property
    def experts_choose(self) -> bool:
        return self.config.gate.expert_choice and self.case.stack == "encoder"

    @property
    def stays(self) -> bool:
        """Whether gating dropout keeps every token on its rank."""
        return self.config.gate.dropout > 0 and self.case.noise_key is not None

    def reaches(
        self, x_TD: Tensor, gate_ED: Tensor, rank: int, kind: LayerKind, layer: str
    ) -> list[str]:
        """The reach of each of a rank's tokens."""
        count = len(x_TD)
        rule = self.config.partition if self.case.training else self.config.inference_partition
        everywhere = rule == "everywhere"
        if self.stays:
            return ["local"] * count
        if kind is LayerKind.PLAIN or everywhere:
            return ["global"] * count
        scores = [x @ gate_ED.T for x in x_TD]
        num_local, num_node = (self.quota(reach, count) for reach in ("local", "node"))
        if rule == "threshold":
            chosen = self.reaches_by_threshold(scores, rank, layer)
            if chosen is not None:
                return chosen
        found = ["global"] * count
        for reach, quota in ("local", num_local), ("node", num_node):
            ids = self.experts_in_reach(reach, rank)
            free = [t for t in range(count) if found[t] == "global"]
            free.sort(key=lambda t, ids=ids: -float(scores[t][ids].mean()))
            for t in free[:quota]:
                found[t] = reach
        return found

    def quota(self, reach: str, count: int) -> int:
        """Of a rank's tokens, those of a reach in Seq."""
        beta = self.beta if self.num_nodes > 1 else Fraction(0)
        local = int(self.alpha * count)
        node = count - local if self.alpha + beta == 1 else int(beta * count)
        return {"local": local, "node": node, "global": count - local - node}[reach]

    def reaches_by_threshold(self, scores, rank: int, layer: str) -> list[str] | None:
        """Each token by itself; None while training has no thresholds yet."""
        thresholds = self.weights[f"{layer}.moe.partition.running_threshold_RK"][rank]
        if not self.case.is_learned and self.case.training:
            return None
        found = []
        beta = self.beta if self.num_nodes > 1 else Fraction(0)
        for z_E in scores:
            reach = "global"
            for column, near in reversed(list(enumerate(("local", "node")))):
                mean_score = z_E[self.experts_in_reach(near, rank)].mean()
                is_near = self.case.is_learned and float(mean_score) >= float(thresholds[column])
                if near == "node":
                    is_near = beta > 0 and (is_near or self.alpha + beta == 1)
                reach = near if is_near else reach
            found.append(reach)
        return found

    def by_token(self, x, reaches, gate_ED, layer, name, values=None):
        experts = self.experts(f"{layer}.moe.experts")
        for of_rank in reaches:
            self.run.reach_counts.update(of_rank)
        outputs = [[None] * len(x_TD) for x_TD in x]
        losses: list[list] = [[] for _ in x]
        for reach in "local", "node", "global":
            largest = max(of_rank.count(reach) for of_rank in reaches)
            is_seq = f"{layer}.moe.partition.running_weight_RK" in self.weights
            if is_seq and self.config.partition == "threshold" and self.case.training:
                largest = max(self.quota(reach, len(of_rank)) for of_rank in reaches)
            for rank, x_TD in enumerate(x):
                mine = [t for t, r in enumerate(reaches[rank]) if r == reach]
                if not mine:
                    continue
                values_TD = None if values is None else values[rank]
                result = self.route(
                    x_TD, mine, gate_ED, experts, reach, rank, largest, name, layer, values_TD
                )
                if len(self.experts_in_reach(reach, rank)) > 1:
                    losses[rank].append(result.balance_loss)
                for t, y in zip(mine, result.outputs, strict=True):
                    outputs[rank][t] = y
        return [
            (stack_rows(rows), mean(of_rank)) for rows, of_rank in zip(outputs, losses, strict=True)
        ]

    def bottleneck(self, x, gate_ED, layer, name):
        down, up = (self.weights[f"{layer}.moe.projection.{i}.weight"] for i in (0, 1))
        reaches = [["local" if self.stays else "global"] * len(x_TD) for x_TD in x]
        narrow = [x_TD @ down.T for x_TD in x]
        results = self.by_token(x, reaches, gate_ED, layer, name, narrow)
        return [(y_TD @ up.T if len(y_TD) else y_TD, loss) for y_TD, loss in results]

    def feat(self, x, gate_ED, layer, name):
        sizes = [int(self.alpha * DIM), int(self.beta * DIM)]
        sizes.append(DIM - sum(sizes))
        largest = max(len(x_TD) for x_TD in x)
        results = []
        for rank, x_TD in enumerate(x):
            values = x_TD
            if self.config.feat_projection:
                values = x_TD @ self.weights[f"{layer}.moe.projection.0.weight"].T
            parts, losses, first = [], [], 0
            for reach, size in zip(("local", "node", "global"), sizes, strict=True):
                if not size:
                    continue
                experts = self.experts(f"{layer}.moe.experts.{reach}")
                first_feature, reach = first, "local" if self.stays else reach
                self.run.reach_counts[reach] += len(x_TD)
                mine = list(range(len(x_TD)))
                slice_TD = values[:, first_feature : first_feature + size]
                result = self.route(
                    x_TD, mine, gate_ED, experts, reach, rank, largest, name, layer, slice_TD
                )
                if mine and len(self.experts_in_reach(reach, rank)) > 1:
                    losses.append(result.balance_loss)
                parts.append(result.outputs)
                first += size
            y_TD = torch.cat(parts, dim=-1)
            if self.config.feat_projection:
                y_TD = y_TD @ self.weights[f"{layer}.moe.projection.1.weight"].T
            results.append((y_TD, mean(losses)))
        return results

    def route(
        self, x_TD, mine, gate_ED, experts, reach, rank, largest, name, layer, values_TD=None
    ) -> RankResult:
        ids = self.experts_in_reach(reach, rank)
        top_k = 1 if self.config.gate.top1 else 2
        if self.experts_choose:
            return self.chosen_by_experts(
                x_TD, mine, gate_ED, experts, reach, rank, largest, name, layer, values_TD
            )
        capacity = None
        if reach != "local" and self.case.training:
            capacity = capacity_of(largest, len(ids), top_k, self.config.capacity_factor)
        options = self.config.gate
        extra: dict = {"kind": options.kind}
        if options.limit_nodes is not None and reach == "global":
            extra["nodes"] = (self.num_nodes, options.limit_nodes)
        if options.balance == "bias":
            extra["bias_E"] = self.weights[f"{layer}.moe.balance.bias.running_bias_E"][ids]
        if options.topology_shares is not None and reach == "global":
            extra["targets_E"] = self.target_shares(rank, options.topology_shares)
        if self.case.noise_key is not None:
            noise = self.case.noise_key.of_layer(name, range(self.num_ranks), torch.device("cpu"))
            shape = torch.Size((self.num_ranks, self.beside.longest, len(ids)))
            if self.config.gate.second_policy == "sampling":
                extra["gumbel_TE"] = noise.gumbel(shape)[rank][mine]
            if self.config.gate.second_policy == "random":
                extra["keep_uniform_T"] = noise.uniform(shape[:2])[rank][mine]
        extra["scale_TK"] = self.beside.scales(name, rank, top_k if len(ids) > 1 else 1)[mine]
        result = route_rank(
            x_TD[mine],
            gate_ED[ids],
            [experts[e] for e in ids],
            capacity=capacity,
            top_k=top_k,
            values_TD=None if values_TD is None else values_TD[mine],
            **extra,
        )
        self.run.num_choices += result.num_choices
        self.run.num_dropped += result.num_dropped
        return result

    def chosen_by_experts(
        self, x_TD, mine, gate_ED, experts, reach, rank, largest, name, layer, values_TD
    ) -> RankResult:
        ids = self.experts_in_reach(reach, rank)
        top_k = min(1 if self.config.gate.top1 else 2, len(ids))
        factor = Fraction(str(self.config.capacity_factor))
        share = min(Fraction(1), top_k * factor / len(ids))
        state = f"{layer}.moe.gate.thresholds.{reach}"
        thresholds_E = None
        if not self.case.training and self.case.is_learned:
            thresholds_E = self.weights[f"{state}.running_threshold_E"][ids]
        result = choose_by_expert(
            x_TD[mine],
            gate_ED[ids],
            [experts[e] for e in ids],
            share=share,
            most=math.ceil(share * (len(mine) if reach == "local" else largest)),
            values_TD=None if values_TD is None else values_TD[mine],
            kind=self.config.gate.kind,
            thresholds_E=thresholds_E,
            scale_TK=self.beside.scales(name, rank, len(ids))[mine],
        )
        self.run.num_choices += result.num_choices
        return result

    def target_shares(self, rank: int, shares) -> list[float]:
        """The share of a rank's tokens that each expert is to get."""
        found = []
        for e in range(self.num_experts):
            home = e // self.per_rank
            near = home // self.ranks_per_node == rank // self.ranks_per_node
            where = 0 if home == rank else 1 if near else 2
            ranks = (1, self.ranks_per_node - 1, self.num_ranks - self.ranks_per_node)[where]
            found.append(shares[where] / (ranks * self.per_rank))
        return found

    # --- clustering

    def cluster(self, x: list[Tensor]):
        """The tokens of each rank after clustering, and (home rank, place there) of each."""
        kind = ScoreOracle if self.config.cluster_by == "scores" else KeyOracle
        oracle = kind(self.case, self.weights, self.num_nodes if self.by_node else self.num_experts)
        arrived: list[list] = [[] for _ in range(self.num_experts)]
        for rank, x_TD in enumerate(x):
            experts, order, sorted_TD = oracle.sort(x_TD, rank)
            for place, t in enumerate(order):
                arrived[experts[t]].append((sorted_TD[place], rank, t))
        home_experts = self.experts("clustering.moe.experts")
        outputs, homes = [], []
        for rank in range(self.num_ranks):
            rows, origins = [], []
            for e in self.experts_in_reach("local", rank):
                for row, home, token in arrived[e]:
                    y = feed_forward(self.before(row, "clustering"), home_experts[e])
                    if self.config.gate_type == "sigmoid":
                        weight_ED = self.weights["clustering.moe.gate.weight"]
                        y = torch.sigmoid(row @ weight_ED[e]) * y
                    rows.append(self.after(row, y, "clustering"))
                    origins.append((home, token))
            outputs.append(stack_rows(rows))
            homes.append(origins)
        return outputs, homes

    @property
    def by_node(self) -> bool:
        structured = self.config.scomoe_type in ("seq", "feat")
        return structured and self.num_nodes > 1 and self.alpha == 0 and self.beta < 1


def stack_rows(rows: list) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, DIM, dtype=torch.float64)


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)
