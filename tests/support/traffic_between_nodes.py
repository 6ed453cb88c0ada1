"""One of four processes on two network namespaces: `python -m … RANK RENDEZVOUS VARIANT STEPS`.

Prints what its node's interface sent during the steps, on the first process of each node.
"""

import sys

import torch
import torch.distributed as dist

from benchmarks.two_nodes import COUNTER
from tests.support.traffic import NUM_RANKS, RANKS_PER_NODE, make_layer, make_tokens, step


def main() -> None:
    rank, rendezvous, variant, steps = int(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=NUM_RANKS
    )
    layer, parts = make_layer(variant)
    tokens = make_tokens(parts)
    step(layer, parts, tokens)  # connections are made by the first one
    dist.barrier()
    before = int(COUNTER.read_text())
    for _ in range(steps):
        step(layer, parts, tokens)
    dist.barrier()
    if rank % RANKS_PER_NODE == 0:
        print(int(COUNTER.read_text()) - before, flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
