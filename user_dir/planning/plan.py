"""A plan: every way of exchange on one machine, and which of them is best."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from user_dir.errors import UserError
from user_dir.planning.machine import Machine
from user_dir.planning.memory import Memory, largest_batch, memory_of
from user_dir.planning.methods import Method, all_methods, asked_for
from user_dir.planning.parameters import Parameters, count_parameters
from user_dir.planning.setting import Setting, with_defaults
from user_dir.planning.times import StepTime, step_time

DEFAULT_RATIOS = (0.0, 0.2, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Outcome:
    """What one way of exchange comes to."""

    method: Method
    setting: Setting
    parameters: Parameters
    serial: StepTime
    overlapped: StepTime
    memory: Memory

    @staticmethod
    def of(method: Method, args: Namespace, machine: Machine) -> "Outcome":
        """Raises `UserError` where training would refuse it."""
        setting = Setting.of(method.applied_to(args), device=machine.device)
        parameters = count_parameters(setting)
        return Outcome(
            method=method,
            setting=setting,
            parameters=parameters,
            serial=step_time(setting, machine, parameters, overlap=False),
            overlapped=step_time(setting, machine, parameters, overlap=True),
            memory=memory_of(setting, parameters),
        )

    @property
    def time(self) -> StepTime:
        """Under the schedule that was asked for."""
        is_serial = self.setting.config.exchange_schedule == "serial"
        return self.serial if is_serial else self.overlapped

    @property
    def num_bytes(self) -> tuple[float, float, float]:
        """Of a rank and a forward pass, all layers: on the rank, in the node, between nodes."""
        by_layer = [layer.num_bytes for layer in self.time.layers]
        on_rank, in_node, between = (sum(parts) for parts in zip(*by_layer, strict=True))
        return on_rank, in_node, between

    @property
    def tokens_per_second(self) -> float:
        """Target tokens, of all ranks."""
        return self.setting.tokens * self.setting.num_ranks / self.time.total

    def fits(self, machine: Machine) -> bool:
        """Whether a rank has the memory."""
        return self.memory.peak <= machine.memory

    def gpu_hours(self, num_tokens: float) -> float:
        """Hours of all ranks together for so many target tokens."""
        return num_tokens / self.tokens_per_second * self.setting.num_ranks / 3600

    def largest_batch(self, machine: Machine) -> int:
        """The most tokens of a rank that its memory takes."""

        def fits(tokens: int) -> bool:
            memory = memory_of(replace(self.setting, tokens=tokens), self.parameters)
            return memory.peak <= machine.memory

        return largest_batch(fits)


@dataclass(frozen=True)
class Plan:
    """All of it.

    Attributes:
        refused: why training would refuse a way of exchange, by its name.
        best: the fastest that leaves enough open to a token and fits; None: none does.
        least_share: of tokens, features or nodes that must be open to a token.
        num_tokens: target tokens to train on; None: not asked.
    """

    machine: Machine
    asked: Outcome
    outcomes: tuple[Outcome, ...]
    refused: dict[str, str]
    best: Outcome | None
    least_share: float
    num_tokens: float | None
    args: Namespace

    @property
    def gshard(self) -> Outcome:
        """What the others are compared with: every token may go everywhere."""
        return next((one for one in self.outcomes if one.method.name == "gshard"), self.asked)

    def fastest(self, family: str) -> Outcome | None:
        """Of a family, under the limits."""
        return _best([o for o in self.outcomes if o.method.family == family], self)

    def on(self, machine: Machine, outcome: Outcome) -> Outcome:
        """The same on another machine."""
        return Outcome.of(outcome.method, self.args, machine)


def make_plan(
    args: Namespace,
    machine: Machine,
    *,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    least_share: float = 0.0,
    num_tokens: float | None = None,
) -> Plan:
    """Plan what the options ask for, and all other ways of exchange beside it.

    Raises:
        UserError: training would refuse the options.
    """
    whole = with_defaults(args)
    methods = all_methods(
        num_nodes=whole.moe_nodes, dim=whole.encoder_embed_dim, ratios=sorted(set(ratios))
    )
    # As it stands: what it leaves out is not taken from its way of exchange.
    Setting.of(args, device=machine.device)
    own = asked_for(whole, methods)
    asked = Outcome.of(own, args, machine)
    outcomes, refused = [asked], {}
    for method in methods:
        if method is own:
            continue
        try:
            outcomes.append(Outcome.of(method, args, machine))
        except UserError as error:
            refused[method.name] = str(error)
    plan = Plan(machine, asked, tuple(outcomes), refused, None, least_share, num_tokens, args)
    return replace(plan, best=_best(outcomes, plan))


def _best(outcomes: Sequence[Outcome], plan: Plan) -> Outcome | None:
    able = [
        one
        for one in outcomes
        if one.setting.share_everywhere >= plan.least_share and one.fits(plan.machine)
    ]
    # Of two that take as long, the one that leaves more open.
    return min(able, key=lambda one: (one.time.total, -one.setting.share_everywhere), default=None)


def as_json(plan: Plan) -> dict[str, Any]:
    """All figures by name; bytes, seconds, parameters. docs/planning.md describes them."""
    machine, setting = plan.machine, plan.asked.setting
    return {
        "machine": {
            "name": machine.name,
            "device": machine.device,
            "gbit_within": machine.gbit_within,
            "gbit_between": machine.gbit_between,
            "latency_within_us": machine.latency_within_us,
            "latency_between_us": machine.latency_between_us,
            "flops": machine.flops(setting.precision),
            "memory_bytes": machine.memory,
        },
        "layout": {
            "nodes": setting.layout.num_nodes,
            "ranks_per_node": setting.layout.ranks_per_node,
            "experts": setting.config.num_experts,
            "experts_per_rank": setting.experts_per_rank,
        },
        "tokens": setting.tokens,
        "precision": setting.precision,
        "asked": plan.asked.method.name,
        "best": None if plan.best is None else plan.best.method.name,
        "least_global_share": plan.least_share,
        "methods": [_outcome_json(one, plan) for one in plan.outcomes],
        "refused": plan.refused,
    }


def _outcome_json(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    on_rank, in_node, between = outcome.num_bytes
    sizes = outcome.parameters
    found = {
        "name": outcome.method.name,
        "options": outcome.method.options,
        "flags": outcome.method.flags,
        "share_everywhere": outcome.setting.share_everywhere,
        "parameters": {
            "total": sizes.total,
            "experts": sizes.experts,
            "of_rank": sizes.of_rank,
        },
        "forward_bytes": {"rank": on_rank, "node": in_node, "between": between},
        "seconds": {
            "serial": outcome.serial.total,
            "overlap": outcome.overlapped.total,
            **outcome.time.parts,
        },
        "memory_bytes": {**outcome.memory.parts, "peak": outcome.memory.peak},
        "checkpoint_bytes": {"disk": outcome.memory.checkpoint, "loading": outcome.memory.loading},
        "fits": outcome.fits(plan.machine),
        "tokens_per_second": outcome.tokens_per_second,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "experts_seconds": layer.experts,
                "exchange_seconds": layer.exchange,
                "seconds": layer.total,
                "forward_bytes": dict(
                    zip(("rank", "node", "between"), layer.num_bytes, strict=True)
                ),
            }
            for layer in outcome.time.layers
        ],
    }
    if outcome in (plan.asked, plan.best):
        found["largest_batch"] = outcome.largest_batch(plan.machine)
    if plan.num_tokens is not None:
        found["gpu_hours"] = outcome.gpu_hours(plan.num_tokens)
    return found
