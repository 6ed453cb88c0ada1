"""One rank of `benchmarks.network`: `python -m benchmarks.network_rank RANK RENDEZVOUS ARGUMENTS`.

ARGUMENTS is JSON: the size of a step, repetitions, names of stacks. The first rank prints JSON.
"""

import json
import time

import torch
import torch.distributed as dist

from benchmarks.network_stacks import (
    EXPERTS_PER_RANK,
    StepSize,
    build_stack,
    has_reaches,
    passes_of,
)
from benchmarks.two_nodes import COUNTER, NODES, NUM_RANKS, RANKS_PER_NODE, join_ranks
from user_dir.fast_moe.exchange.all_to_all import Exchange
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.tokens.ranked import RankedTokens


def main() -> None:
    """Join the others and time every stack under both schedules, in turns."""
    rank, arguments = join_ranks()
    size = StepSize(**arguments["size"])
    num_experts = EXPERTS_PER_RANK * NUM_RANKS
    topology = Topology(Layout(NODES, RANKS_PER_NODE), num_experts=num_experts)
    steps = {name: Step(name, topology, size) for name in arguments["names"]}
    results = time_in_turns(steps, repeat=arguments["repeat"])
    for name, step in steps.items():
        results[name]["formula"] = step.expected_bytes()
    if rank == 0:
        print(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def time_in_turns(steps: dict[str, "Step"], *, repeat: int) -> dict[str, dict]:
    """Seconds of steps and of waiting for rows in serial ones, by stack."""
    waiting = _Waiting()
    results: dict[str, dict] = {n: {"serial": [], "overlap": [], "waiting": []} for n in steps}
    for repetition in range(repeat + 1):
        for name, step in steps.items():
            for schedule in ("serial", "overlap") if has_reaches(name) else ("serial",):
                waiting.seconds = 0.0
                seconds, sent = step.run(schedule)
                waited = _mean_over_ranks(waiting.seconds)
                if not repetition:  # the first one makes connections
                    continue
                results[name][schedule].append(seconds)
                results[name]["bytes"] = sent
                if schedule == "serial":
                    results[name]["waiting"].append(waited)
    return results


class _Waiting:
    """Adds up how long this process waits for rows of exchanges."""

    def __init__(self) -> None:
        self.seconds = 0.0
        wait = Exchange.wait

        def timed(exchange: Exchange) -> torch.Tensor:
            start = time.perf_counter()
            received = wait(exchange)
            self.seconds += time.perf_counter() - start
            return received

        Exchange.wait = timed  # type: ignore[method-assign]


def _mean_over_ranks(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / NUM_RANKS


class Step:
    """A forward and backward pass of a stack of mixtures."""

    def __init__(self, name: str, topology: Topology, size: StepSize) -> None:
        self.stack, parts = build_stack(name, topology, size)
        generator = torch.Generator().manual_seed(topology.process_index)
        self.x_SBD = torch.randn(size.length, size.sentences, size.dim, generator=generator)
        self.passes = passes_of(self.stack, parts, size, self.x_SBD)
        self.bytes_between = 0.0

    def run(self, schedule: str) -> tuple[float, int]:
        """Seconds of one step, and the bytes that left the nodes by their interfaces.

        Means over updates where these differ.
        """
        for module in self.stack.modules():
            if isinstance(module, EfficientMoeLayer):
                module.overlap = schedule == "overlap"
        seconds, sent, self.bytes_between = 0.0, 0.0, 0.0
        for share, tokens in self.passes:
            seconds_of_pass, sent_in_pass, bytes_between = self._run_pass(tokens)
            seconds += share * seconds_of_pass
            sent += share * sent_in_pass
            self.bytes_between += share * bytes_between
        return seconds, round(sent)

    def _run_pass(self, tokens: RankedTokens) -> tuple[float, int, float]:
        """Its seconds, the bytes of all nodes, and those of this rank's forward pass by metrics."""
        self.stack.zero_grad()
        dist.barrier()
        bytes_before = int(COUNTER.read_text())
        dist.barrier()
        start = time.perf_counter()
        y_SBD, reports = self.stack(self.x_SBD.clone().requires_grad_(), tokens)
        y_SBD.square().mean().backward()
        dist.barrier()
        seconds = time.perf_counter() - start
        first_of_node = dist.get_rank() % RANKS_PER_NODE == 0
        sent = torch.tensor((int(COUNTER.read_text()) - bytes_before) * first_of_node)
        dist.all_reduce(sent)
        return seconds, int(sent), sum(report.known.bytes_between for report in reports)

    def expected_bytes(self) -> float:
        """Of all nodes, by the metrics of the forward pass; the backward pass sends as much."""
        total = torch.tensor(2 * self.bytes_between, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)


if __name__ == "__main__":
    main()
