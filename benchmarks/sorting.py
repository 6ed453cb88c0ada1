"""Differentiable sorting, forward and backward, against the formula with its T x T matrix.

    python -m benchmarks.sorting

The formula is P · x with P = hard + Q − stop(Q), as Zeng and Xiong (2023) give it.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.timing import measure, parse_arguments, peak_memory, write_results
from user_dir.fast_moe.clustering.sorting import differentiable_sort
from user_dir.text.scoring.tables import format_markdown

TEMPERATURE = 0.5
# Tokens, width, groups.
SIZES = [(1024, 512, 8), (2048, 512, 8), (4096, 512, 8)]
FULL_SIZES = [*SIZES, (4096, 512, 64), (8192, 512, 8)]
SMALL_SIZES = [(32, 8, 4)]
HEADER = ("size", "ours, ms", "formula, ms", "faster", "ours, MiB", "formula, MiB")


def sort_by_matrix(x_TD: Tensor, scores_TG: Tensor, group_T: Tensor, order_T: Tensor) -> Tensor:
    """P · x of one rank's tokens."""
    members_T1 = torch.bincount(group_T, minlength=scores_TG.shape[1])[group_T].unsqueeze(1)
    hard_TT = torch.nn.functional.one_hot(order_T, len(x_TD)).to(x_TD)
    columns_GT = (scores_TG / TEMPERATURE).softmax(dim=0).T
    soft_TT = (columns_GT[group_T] / members_T1)[order_T]
    return (hard_TT + soft_TT - soft_TT.detach()) @ x_TD


def main() -> None:
    """Measure every size; print a table and write JSON."""
    args = parse_arguments(__doc__)
    sizes = SMALL_SIZES if args.small else FULL_SIZES if args.full else SIZES
    records = [run_size(*size, args) for size in sizes]
    print(format_markdown(HEADER, [_row(record) for record in records]))
    print(f"\nwritten to {write_results('sorting', records, args)}")


def run_size(num_tokens: int, dim: int, num_groups: int, args: argparse.Namespace) -> dict:
    """Times and peak memory; the first call, which warms up, is the one for memory."""
    dtype = torch.bfloat16 if args.device.type == "cuda" else torch.float32
    torch.manual_seed(3)
    x_TD = torch.randn(num_tokens, dim).to(args.device, dtype).requires_grad_()
    scores_TG = torch.randn(num_tokens, num_groups).to(args.device).requires_grad_()
    group_T = scores_TG.detach().argmax(dim=1)
    order_T = group_T.argsort(stable=True)
    grad_TD = torch.randn_like(x_TD)

    def ours() -> None:
        y_1TD = differentiable_sort(
            x_TD.unsqueeze(0),
            scores_TG.unsqueeze(0),
            group_VT=group_T.unsqueeze(0),
            order_VT=order_T.unsqueeze(0),
            temperature=TEMPERATURE,
        )
        torch.autograd.grad(y_1TD, (x_TD, scores_TG), grad_TD.unsqueeze(0))

    def formula() -> None:
        scores = scores_TG.to(dtype)
        y_TD = sort_by_matrix(x_TD, scores, group_T, order_T)
        torch.autograd.grad(y_TD, (x_TD, scores_TG), grad_TD)

    functions = {"ours": ours, "formula": formula}
    peaks = {name: peak_memory(function, args.device) for name, function in functions.items()}
    timings = measure(functions, device=args.device, repeat=args.repeat, budget=20)
    return {
        "tokens": num_tokens,
        "dim": dim,
        "groups": num_groups,
        "dtype": str(dtype),
        "seconds": timings,
        "peak_bytes": peaks,
        "faster": timings["formula"].median / timings["ours"].median,
    }


def _row(record: dict) -> tuple[str, ...]:
    peaks = record["peak_bytes"]
    return (
        f"T {record['tokens']}, D {record['dim']}, G {record['groups']}, {record['dtype'][6:]}",
        str(record["seconds"]["ours"]),
        str(record["seconds"]["formula"]),
        f"{record['faster']:.1f}",
        f"{peaks['ours'] / 2**20:.1f}",
        f"{peaks['formula'] / 2**20:.1f}",
    )


if __name__ == "__main__":
    main()
