"""How long an update takes, and with what."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from user_dir.fast_moe.config import LayerKind
from user_dir.planning.arithmetic import (
    Work,
    around_work,
    dense_work,
    output_work,
    recomputed_layers,
    trip_work,
)
from user_dir.planning.machine import Machine
from user_dir.planning.parameters import Parameters
from user_dir.planning.setting import Setting, mixtures
from user_dir.planning.traffic import Leg, Trip, passes_of

_BACKWARD = 2  # of the forward pass's arithmetic
# Bytes that a step of the optimizer reads and writes for a parameter in float32: weight, gradient
# and two moments read, weight and moments written; the norm of the gradients read before. In half
# precision gradients and weights are converted as well.
_STEP_BYTES = {"moe_adam": 32, "adam": 32, "nag": 24, "sgd": 16}
_CONVERTED_BYTES = 12


@dataclass(frozen=True)
class LayerTime:
    """Seconds of a mixture in an update, and what it sends."""

    name: str
    kind: str
    experts: float  # their arithmetic
    exchange: float  # rows on their way, were nothing else going on
    total: float  # together, with what runs meanwhile counted once
    num_bytes: tuple[float, float, float]  # of a forward pass, as the metrics count them


@dataclass(frozen=True)
class StepTime:
    """Seconds of an update by what they go to; they add up to `total`."""

    attention: float
    feed_forward: float
    gates: float
    experts: float
    exchange: float  # for which nothing else can be done meanwhile
    output: float
    recomputation: float  # of layers, their exchanges apart
    gradients: float  # their sum over ranks
    optimizer: float
    layers: tuple[LayerTime, ...]

    @property
    def parts(self) -> dict[str, float]:
        names = "attention feed_forward gates experts exchange output recomputation gradients"
        return {name: getattr(self, name) for name in (*names.split(), "optimizer")}

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def step_time(
    setting: Setting, machine: Machine, parameters: Parameters, *, overlap: bool
) -> StepTime:
    """Seconds of one update.

    Args:
        overlap: whether experts work on near tokens while far ones travel.
    """
    passes = 1 + _BACKWARD
    rate = _Rates(machine, setting)
    attention = feed_forward = 0.0
    for stack in setting.stacks:
        of_attention, of_dense = dense_work(setting, stack)
        attention += passes * rate.seconds(of_attention)
        feed_forward += passes * rate.seconds(of_dense)
    layers, gates = [], 0.0
    for stack, kind, name in mixtures(setting):
        gates += passes * rate.seconds(around_work(setting, stack, kind))
        of_passes = [
            (share, _layer_time(name, kind, trips, rate, overlap=overlap))
            for share, trips in passes_of(setting, stack, kind)
        ]
        layers.append(_mean(of_passes))
    experts = sum(layer.experts for layer in layers)
    return StepTime(
        attention=attention,
        feed_forward=feed_forward,
        gates=gates,
        experts=experts,
        exchange=sum(layer.total for layer in layers) - experts,
        output=passes * rate.seconds(output_work(setting)),
        recomputation=rate.seconds(recomputed_layers(setting)) if setting.recompute else 0.0,
        gradients=_sum_of_gradients(setting, machine, parameters),
        optimizer=_optimizer(setting, machine, parameters),
        layers=tuple(layers),
    )


class _Rates:
    """Seconds of work and of messages on a machine."""

    def __init__(self, machine: Machine, setting: Setting):
        self.machine, self.setting = machine, setting
        self.flops = machine.flops(setting.precision)

    def seconds(self, work: Work) -> float:
        """Products, then what passes the memory beside them."""
        return work.operations / self.flops + work.num_bytes / self.machine.memory_rate

    def way(self, legs: Sequence[Leg], *, ahead: bool) -> "_Way":
        """One way of a trip.

        Args:
            ahead: counts travel first, if they do at all.
        """
        machine, per_node = self.machine, self.setting.layout.ranks_per_node
        within = between = 0.0
        for leg in legs:
            rounds = 2 if ahead and leg.counts_ahead else 1
            within += leg.in_node / 2 / machine.within
            within += rounds * leg.peers.in_node * machine.latency_within_us * 1e-6
            between += per_node * leg.between / 2 / machine.between
            between += rounds * leg.peers.between * machine.latency_between_us * 1e-6
        return _Way(within, between, is_chain=len(legs) > 1)


def _layer_time(
    name: str, kind: LayerKind, trips: Sequence[Trip], rate: _Rates, *, overlap: bool
) -> LayerTime:
    itemsize, recompute = rate.setting.itemsize, rate.setting.recompute
    forward = [rate.seconds(trip_work(trip, itemsize)) for trip in trips]
    # Where layers are recomputed, so are their exchanges; those of clusters are not.
    again = recompute and kind is not LayerKind.CLUSTER
    passes = [(1, True), *([(1, True)] if again else []), (_BACKWARD, False)]
    experts = exchange = total = 0.0
    for factor, is_forward in passes:
        jobs = [
            _Job(
                work * factor,
                rate.way(trip.legs, ahead=is_forward),
                rate.way(trip.legs, ahead=False),
            )
            for trip, work in zip(trips, forward, strict=True)
        ]
        experts += sum(job.work for job in jobs)
        exchange += sum(job.there.total + job.back.total for job in jobs)
        total += _finish(jobs) if overlap and len(jobs) > 1 else _one_by_one(jobs)
    on_rank, in_node, between = (sum(trip.num_bytes[i] for trip in trips) for i in range(3))
    return LayerTime(name, kind.value, experts, exchange, total, (on_rank, in_node, between))


def _mean(of_passes: Sequence[tuple[float, LayerTime]]) -> LayerTime:
    """Over updates of several ways to go, by their shares."""

    def mean(values: Sequence[float]) -> float:
        pairs = zip(of_passes, values, strict=True)
        return sum(share * value for (share, _), value in pairs)

    times = [one for _, one in of_passes]
    on_rank, in_node, between = (mean([one.num_bytes[i] for one in times]) for i in range(3))
    return LayerTime(
        name=times[0].name,
        kind=times[0].kind,
        experts=mean([one.experts for one in times]),
        exchange=mean([one.exchange for one in times]),
        total=mean([one.total for one in times]),
        num_bytes=(on_rank, in_node, between),
    )


@dataclass(frozen=True)
class _Way:
    """Seconds that rows are on the links inside nodes and between them."""

    within: float
    between: float
    is_chain: bool  # one after the other: whole rows are passed on

    @property
    def total(self) -> float:
        if self.is_chain:
            return self.within + self.between
        return max(self.within, self.between)


@dataclass(frozen=True)
class _Job:
    """A trip in time: its experts' work, and the ways of its rows."""

    work: float
    there: _Way
    back: _Way


def _one_by_one(jobs: Sequence[_Job]) -> float:
    return sum(job.there.total + job.work + job.back.total for job in jobs)


def _finish(jobs: Sequence[_Job]) -> float:
    """When all are home, if far rows leave first and near ones are worked on meanwhile."""
    links = _Links()
    arrivals = [links.send(job.there, at=0.0) for job in reversed(jobs)]
    clock = home = 0.0
    for job, arrival in zip(jobs, reversed(arrivals), strict=True):
        clock = max(clock, arrival) + job.work
        home = max(home, links.send(job.back, at=clock))
    return max(clock, home)


class _Links:
    """The two links of a rank; each takes rows in the order in which they are sent."""

    def __init__(self) -> None:
        self.within = self.between = 0.0  # when they are free

    def send(self, way: _Way, *, at: float) -> float:
        """When rows that leave then have arrived."""
        arrival = at
        if way.between:
            arrival = self.between = max(self.between, at) + way.between
        if way.within:
            leaves = arrival if way.is_chain else at
            self.within = max(self.within, leaves) + way.within
            arrival = max(arrival, self.within)
        return arrival


def _sum_of_gradients(setting: Setting, machine: Machine, parameters: Parameters) -> float:
    """A ring over all ranks, with the latencies of a tree; experts with copies have rings too."""
    ranks = setting.num_ranks
    num_bytes = 2 * parameters.shared * setting.itemsize * (ranks - 1) / ranks
    if setting.replicas > 1:
        share = (setting.replicas - 1) / setting.replicas
        num_bytes += 2 * parameters.experts_of_rank * setting.itemsize * share
    if ranks == 1:
        return 0.0
    is_one_node = setting.layout.num_nodes == 1
    rate = machine.within if is_one_node else min(machine.within, machine.between)
    latency = machine.latency_within_us if is_one_node else machine.latency_between_us
    return num_bytes / rate + 2 * log2(ranks) * latency * 1e-6


def _optimizer(setting: Setting, machine: Machine, parameters: Parameters) -> float:
    of_one = _STEP_BYTES[setting.optimizer]
    if setting.precision != "fp32":
        of_one += _CONVERTED_BYTES
    return parameters.of_rank * of_one / machine.memory_rate
