"""Counts what the stacks of `benchmarks.network` send between 2, 4 and 8 nodes of two ranks.

    python -m benchmarks.network_bytes      (no network needed; half a minute)

One process hosts all ranks, and the layers' metrics say what leaves a node in a forward pass. The
gates are those of untrained models and the tokens are random, so that experts are chosen evenly.
There are two experts a rank, whatever the number of nodes.
"""

import argparse

import torch

from benchmarks.network_stacks import EXPERTS_PER_RANK, STACKS, StepSize, build_stack, passes_of
from benchmarks.timing import parse_arguments, write_results
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.text.scoring.tables import format_markdown

NODES, RANKS_PER_NODE = (2, 4, 8), 2
# The hidden width has no say in what is sent.
SIZE = StepSize(sentences=8, length=64, dim=512, hidden=32)
SMALL = StepSize(sentences=2, length=8, dim=32, hidden=8)


def main() -> None:
    """Count, print the table, write JSON."""
    print_counts(parse_arguments(__doc__))


def print_counts(args: argparse.Namespace) -> None:
    """Print the table and write `network_bytes.json`."""
    size = SMALL if args.small else SIZE
    counted = {name: [count_bytes(name, nodes, size) for nodes in NODES] for name in STACKS}
    header = ["variant", *(cell for n in NODES for cell in (f"{n} nodes: MB a rank", "of GShard"))]
    rows = [
        [
            name,
            *(
                cell
                for pair in zip(values, counted["gshard"], strict=True)
                for cell in _cells(*pair)
            ),
        ]
        for name, values in counted.items()
    ]
    print("Between nodes, in a forward pass, by counting:", end="\n\n")
    print(format_markdown(header, rows), end="\n\n")
    records = [
        {"variant": name, "bytes a rank": dict(zip(NODES, values, strict=True))}
        for name, values in counted.items()
    ]
    print(f"written to {write_results('network_bytes', records, args)}")


def count_bytes(name: str, num_nodes: int, size: StepSize) -> float:
    """What a rank sends to other nodes, and gets back, in a forward pass of a stack."""
    layout = Layout(num_nodes, RANKS_PER_NODE)
    topology = Topology(layout, num_experts=EXPERTS_PER_RANK * layout.num_ranks)
    stack, parts = build_stack(name, topology, size)
    generator = torch.Generator().manual_seed(0)
    num_sentences = layout.num_ranks * size.sentences
    x_SBD = torch.randn(size.length, num_sentences, size.dim, generator=generator)
    sent = 0.0
    for share, tokens in passes_of(stack, parts, size, x_SBD):
        with torch.no_grad():
            _, reports = stack(x_SBD, tokens)
        sent += share * sum(report.known.bytes_between for report in reports)
    return sent / layout.num_ranks


def _cells(num_bytes: float, of_gshard: float) -> tuple[str, str]:
    return f"{num_bytes / 1e6:.2f}", f"{num_bytes / of_gshard:.2f}"


if __name__ == "__main__":
    main()
