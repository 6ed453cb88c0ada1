"""A rank of `benchmarks.planning`: `python -m benchmarks.planning_rank RANK RENDEZVOUS ARGUMENTS`.

ARGUMENTS is JSON: the size of a step, repetitions, bytes of a probe's exchange, names of stacks.
The first rank prints JSON: the machine as a probe finds it, and the seconds of steps.
"""

import json

import torch
import torch.distributed as dist

from benchmarks.network_rank import Step, time_in_turns
from benchmarks.network_stacks import EXPERTS_PER_RANK, StepSize
from benchmarks.two_nodes import NODES, NUM_RANKS, RANKS_PER_NODE, join_ranks
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.planning.machine import write_machine
from user_dir.planning.probe import measure_machine


def main() -> None:
    """Join the others, probe the machine, time the stacks."""
    rank, arguments = join_ranks()
    size = StepSize(**arguments["size"])
    layout = Layout(NODES, RANKS_PER_NODE)
    machine = measure_machine(
        layout,
        device=torch.device("cpu"),
        precision="fp32",
        dim=size.dim,
        hidden=size.hidden,
        exchange_bytes=arguments["exchange_bytes"],
    )
    topology = Topology(layout, num_experts=EXPERTS_PER_RANK * NUM_RANKS)
    steps = {name: Step(name, topology, size) for name in arguments["names"]}
    seconds = time_in_turns(steps, repeat=arguments["repeat"])
    if rank == 0:
        print(json.dumps({"machine": write_machine(machine), "seconds": seconds}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
