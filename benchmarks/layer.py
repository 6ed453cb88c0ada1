"""One MoE layer, forward and backward, against a dense layer and against one-hot dispatch.

    python -m benchmarks.layer
    python -m benchmarks.layer --profile "8192 x 512, H 2048, E 32, top-2, dropless, float32"

The limit is a dense feed-forward layer of equal arithmetic and the same widths: on as many rows as
the experts multiply, E·C where they are padded to a capacity and T·K where they are not (nothing
is dropped). ``ratio`` is the layer's time over that layer's: what gate, routing, dispatch and
combine cost, and what smaller products lose. H is 2048 on a CPU where a cell does not say
otherwise (4·D for D 512, 2·D for D 1024) and 4096 on a GPU.

One-hot dispatch is benchmarks/one_hot.py. Its five products with T x E·C masks take 10·T/(12·H) of
the experts' own arithmetic, 0.8 at T 2048 and 3.3 at T 8192 for H 2048, so that this is about
what dispatch by index can save.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from benchmarks.one_hot import OneHotMoe
from benchmarks.timing import measure, parse_arguments, peak_memory, profile_table, write_results
from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.gating.gates import GShardGate, SwitchGate
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.text.scoring.tables import format_markdown

CELL_SECONDS = 20.0  # for the rounds of one cell
HEADER = (
    "cell",
    "tokens an expert",
    "layer, ms",
    "dense, ms",
    "ratio",
    "GFLOP/s",
    "one-hot / layer",
    "layer, MiB",
    "dense, MiB",
    "one-hot, MiB",
)


@dataclass(frozen=True)
class Cell:
    """Sizes of a layer."""

    tokens: int
    dim: int
    experts: int
    top_k: int = 2
    capacity: float = 1.0  # the factor; 0: dropless
    dtype: str = "float32"
    hidden: int = 2048

    @property
    def name(self) -> str:
        capacity = f"capacity {self.capacity}" if self.capacity else "dropless"
        sizes = f"{self.tokens} x {self.dim}, H {self.hidden}, E {self.experts}, top-{self.top_k}"
        return f"{sizes}, {capacity}, {self.dtype}"

    @property
    def slots(self) -> int | None:
        """Of an expert; None: dropless."""
        rule = CapacityRule(top_k=self.top_k, factor=self.capacity, evaluation_fraction=0)
        return rule.slots(self.tokens, self.experts, training=True)

    @property
    def rows(self) -> int:
        """That the experts multiply."""
        return self.experts * self.slots if self.slots else self.tokens * self.top_k


DEFAULT = [
    Cell(2048, 512, 8),
    Cell(2048, 512, 8, top_k=1),
    Cell(2048, 512, 8, hidden=1024),
    Cell(2048, 512, 8, capacity=0),
    Cell(2048, 512, 32, capacity=1.25),
    Cell(2048, 512, 8, dtype="bfloat16"),
    Cell(2048, 1024, 8, capacity=1.25, dtype="bfloat16"),
    Cell(8192, 512, 8),
    Cell(8192, 512, 32),
    Cell(8192, 512, 32, capacity=0),
    Cell(8192, 512, 32, top_k=1, capacity=1.25, dtype="bfloat16"),
    Cell(8192, 512, 32, capacity=0, dtype="bfloat16"),
    Cell(8192, 1024, 8, dtype="bfloat16"),
]
FULL = [
    Cell(tokens, dim, experts, top_k=top_k, capacity=capacity, dtype=dtype)
    for tokens in (2048, 8192)
    for dim in (512, 1024)
    for experts in (8, 32)
    for top_k in (1, 2)
    for capacity in (1.0, 1.25, 0)
    for dtype in ("float32", "bfloat16")
]
GPU = [
    Cell(16384, 1024, experts, capacity=capacity, dtype="bfloat16", hidden=4096)
    for experts in (8, 32)
    for capacity in (1.0, 1.25, 0)
]
SMALL = [
    Cell(32, 16, 4, capacity=0.75, hidden=32),
    Cell(32, 16, 4, top_k=1, capacity=0, dtype="bfloat16", hidden=32),
]
# One-hot masks of T x E·C grow with T²; beyond this they are left out.
LARGEST_MASK = 2**31


def main() -> None:
    """Measure every cell; print a table and write JSON."""
    args = parse_arguments(__doc__, _add_options)
    if args.profile:
        functions = prepare(_cell_of(args.profile), args.device)
        functions["layer"]()
        print(profile_table(functions["layer"], args.device))
        return
    records = [run_cell(cell, args) for cell in _cells(args)]
    print(format_markdown(HEADER, [_row(record) for record in records]))
    print(f"\nwritten to {write_results('layer', records, args)}")


def run_cell(cell: Cell, args: argparse.Namespace) -> dict:
    """Times and peak memory of a cell; the first call, which warms up, is the one for memory."""
    functions = prepare(cell, args.device)
    peaks = {name: peak_memory(function, args.device) for name, function in functions.items()}
    timings = measure(functions, device=args.device, repeat=args.repeat, budget=CELL_SECONDS)
    layer = timings["layer"].median
    one_hot = timings.get("one_hot")
    # Two products forward, four backward, of 2 operations a multiply-add.
    operations = 12 * cell.rows * cell.dim * cell.hidden
    return {
        "cell": cell.name,
        **asdict(cell),
        "rows": cell.rows,
        "seconds": timings,
        "peak_bytes": peaks,
        "ratio_to_dense": layer / timings["dense"].median,
        "gflops": operations / layer / 1e9,
        "dense_gflops": operations / timings["dense"].median / 1e9,
        "one_hot_over_layer": one_hot.median / layer if one_hot else None,
    }


def prepare(cell: Cell, device: torch.device) -> dict[str, Callable[[], object]]:
    """Forward and backward passes on the same input: layer, dense, and one-hot where it fits."""
    dtype = getattr(torch, cell.dtype)
    layer = build_layer(cell).to(device, dtype)
    dense = nn.Sequential(
        nn.Linear(cell.dim, cell.hidden), nn.ReLU(), nn.Linear(cell.hidden, cell.dim)
    ).to(device, dtype)
    is_pad_BS = torch.zeros(1, cell.tokens, dtype=torch.bool, device=device)
    rank_B = torch.zeros(1, dtype=torch.int64, device=device)
    tokens = rank_tokens(is_pad_BS, rank_B, num_hosted=1)
    x_TD = torch.randn(cell.tokens, cell.dim, device=device).to(dtype)

    def run_layer(x: Tensor) -> list[Tensor]:
        y_VTD, report = layer(x.unsqueeze(0), tokens)
        assert report is not None and report.balance_loss_V is not None
        return [y_VTD, report.balance_loss_V.sum()]

    x_dense = torch.randn(cell.rows, cell.dim, device=device).to(dtype)
    functions = {
        "layer": backward_too(run_layer, layer, x_TD),
        "dense": backward_too(lambda x: [dense(x)], dense, x_dense),
    }
    if cell.slots and cell.tokens * cell.experts * cell.slots <= LARGEST_MASK:
        one_hot = OneHotMoe(layer.gate, layer.experts, capacity=cell.slots)
        functions["one_hot"] = backward_too(one_hot, one_hot, x_TD)
    return functions


def build_layer(cell: Cell) -> EfficientMoeLayer:
    """A plain layer on one rank."""
    torch.manual_seed(1)
    topology = Topology(Layout(1, 1), num_experts=cell.experts)
    gate = GShardGate if cell.top_k == 2 else SwitchGate
    return EfficientMoeLayer(
        gate=gate(dim=cell.dim, num_experts=cell.experts),
        experts=ExpertFFN(dim=cell.dim, hidden_dim=cell.hidden, topology=topology),
        topology=topology,
        capacity=CapacityRule(top_k=cell.top_k, factor=cell.capacity, evaluation_fraction=0),
        name="encoder.1",
    )


def backward_too(
    forward: Callable[[Tensor], list[Tensor]], module: nn.Module, x: Tensor
) -> Callable[[], None]:
    """A pass and the gradients of the input and of all parameters, as in training."""
    grad_y = torch.randn_like(x)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        leaf = x.detach().requires_grad_()
        y, *losses = forward(leaf)
        torch.autograd.backward([y, *losses], [grad_y.view_as(y), *[None for _ in losses]])

    return run


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", metavar="CELL", help="print torch's profile of one cell's layer, by its name"
    )


def _cells(args: argparse.Namespace) -> list[Cell]:
    if args.small:
        return SMALL
    if args.full:
        return FULL
    return GPU if args.device.type == "cuda" else DEFAULT


def _cell_of(name: str) -> Cell:
    cells = {cell.name: cell for cell in [*DEFAULT, *FULL, *GPU, *SMALL]}
    if name not in cells:
        raise SystemExit(f"no cell is called '{name}'; there are:\n" + "\n".join(cells))
    return cells[name]


def _row(record: dict) -> tuple[str, ...]:
    peaks, slower = record["peak_bytes"], record["one_hot_over_layer"]
    return (
        record["cell"],
        str(record["rows"] // record["experts"]),
        str(record["seconds"]["layer"]),
        str(record["seconds"]["dense"]),
        f"{record['ratio_to_dense']:.2f}",
        f"{record['gflops']:.0f}",
        f"{slower:.1f}" if slower else "",
        *(f"{peaks[name] / 2**20:.0f}" if name in peaks else "" for name in ("layer", "dense")),
        f"{peaks['one_hot'] / 2**20:.0f}" if "one_hot" in peaks else "",
    )


if __name__ == "__main__":
    main()
