"""One rank of `benchmarks.network`: `python -m benchmarks.network_rank RANK RENDEZVOUS ARGUMENTS`.

ARGUMENTS is JSON: the size of a step, repetitions, names of stacks. The first rank prints JSON.
"""

import json
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.distributed as dist

from benchmarks.two_nodes import COUNTER, NODES, NUM_RANKS, RANKS_PER_NODE
from user_dir.fast_moe.build import ExpertSizes, MoeParts
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.exchange.all_to_all import Exchange
from user_dir.fast_moe.layout.processes import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.transformer.mixture_tail import MixtureTail
from user_dir.transformer.sublayers import SublayerConfig

NUM_EXPERTS, NUM_LAYERS = 8, 6
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
# By name: options, and the mixtures of the stack; as in the model the first one is not SCoMoE's.
STACKS = {
    "gshard": ({}, (LayerKind.PLAIN,) * NUM_LAYERS),
    "seq": (SEQ, (LayerKind.PLAIN, *(LayerKind.SEQ,) * (NUM_LAYERS - 1))),
    "feat": (FEAT, (LayerKind.PLAIN, *(LayerKind.FEAT,) * (NUM_LAYERS - 1))),
    "seq+cluster": (SEQ, (LayerKind.CLUSTER, *(LayerKind.SEQ,) * (NUM_LAYERS - 1))),
    "feat+cluster": (FEAT, (LayerKind.CLUSTER, *(LayerKind.FEAT,) * (NUM_LAYERS - 1))),
    "seq, all layers": (SEQ, (LayerKind.SEQ,) * NUM_LAYERS),
}


@dataclass(frozen=True)
class StepSize:
    """What one rank works on."""

    sentences: int
    length: int
    dim: int
    hidden: int


def main() -> None:
    """Join the others and time every stack under both schedules, in turns."""
    rank, rendezvous, arguments = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=NUM_RANKS
    )
    size = StepSize(**arguments["size"])
    topology = Topology(Layout(NODES, RANKS_PER_NODE), num_experts=NUM_EXPERTS)
    steps = {name: _Step(topology, size, *STACKS[name]) for name in arguments["names"]}
    results = _time_in_turns(steps, repeat=arguments["repeat"])
    for name, step in steps.items():
        results[name]["formula"] = step.expected_bytes()
    if rank == 0:
        print(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def _time_in_turns(steps: dict[str, "_Step"], *, repeat: int) -> dict[str, dict]:
    """Seconds of steps and of waiting for rows in serial ones, by stack."""
    waiting = _Waiting()
    results: dict[str, dict] = {n: {"serial": [], "overlap": [], "waiting": []} for n in steps}
    for repetition in range(repeat + 1):
        for name, step in steps.items():
            # GShard has one reach and nothing to overlap.
            for schedule in ("serial",) if name == "gshard" else ("serial", "overlap"):
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


class _Step:
    """A forward and backward pass of a stack of mixtures."""

    def __init__(
        self, topology: Topology, size: StepSize, options: dict, kinds: tuple[LayerKind, ...]
    ) -> None:
        config = MoeConfig.from_args(
            Namespace(
                moe_freq=2,
                moe_expert_count=NUM_EXPERTS,
                reorder_layers=True,
                token_cluster=LayerKind.CLUSTER in kinds,
                **options,
            )
        )
        parts = MoeParts(config=config, topology=topology)
        sizes = ExpertSizes(size.dim, size.hidden)
        of_sublayers = SublayerConfig("encoder", sizes, dropout=0.0, normalize_before=True)
        recomputation = SimpleNamespace(checkpoint_activations=False, offload_activations=False)
        torch.manual_seed(1)
        self.stack = MixtureTail(parts, of_sublayers, kinds, recomputation)
        self.tokens = rank_tokens(
            torch.zeros(size.sentences, size.length, dtype=torch.bool),
            torch.zeros(size.sentences, dtype=torch.int64),
            num_hosted=topology.num_hosted,
            shares=parts.seq_shares,
        )
        generator = torch.Generator().manual_seed(topology.process_index)
        self.x_SBD = torch.randn(size.length, size.sentences, size.dim, generator=generator)
        self.bytes_between = 0.0

    def run(self, schedule: str) -> tuple[float, int]:
        """Seconds of one step, and the bytes that left the nodes by their interfaces."""
        for module in self.stack.modules():
            if isinstance(module, EfficientMoeLayer):
                module.overlap = schedule == "overlap"
        self.stack.zero_grad()
        dist.barrier()
        bytes_before = int(COUNTER.read_text())
        dist.barrier()
        start = time.perf_counter()
        y_SBD, reports = self.stack(self.x_SBD.clone().requires_grad_(), self.tokens)
        y_SBD.square().mean().backward()
        dist.barrier()
        seconds = time.perf_counter() - start
        self.bytes_between = sum(report.known.bytes_between for report in reports)
        first_of_node = dist.get_rank() % RANKS_PER_NODE == 0
        sent = torch.tensor((int(COUNTER.read_text()) - bytes_before) * first_of_node)
        dist.all_reduce(sent)
        return seconds, int(sent)

    def expected_bytes(self) -> float:
        """Of all nodes, by the metrics of the forward pass; the backward pass sends as much."""
        total = torch.tensor(2 * self.bytes_between, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)


if __name__ == "__main__":
    main()
