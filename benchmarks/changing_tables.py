"""`scomoe-train --cluster-by token` in which every update has a table of its own.

    python -m benchmarks.changing_tables --processes 1 … (arguments of scomoe-train)

A control and no method: the same tokens still go together, to equally full clusters, but to other
ones in the next update. What it loses against the table that stays is what staying is worth.
Evaluation, which belongs to no update, has the table that was made.
"""

import sys

import torch
from torch import Tensor

from user_dir.cli import train
from user_dir.fast_moe import build
from user_dir.fast_moe.clustering.assignment import Assignment
from user_dir.fast_moe.clustering.tables import Table
from user_dir.fast_moe.clustering.token_table import TokenTable
from user_dir.fast_moe.tokens.ranked import RankedTokens


class ChangingTable(TokenTable):
    """Lays the tokens on the line in another order for every update."""

    def assign(self, x_VTD: Tensor, tokens: RankedTokens, *, by_step: bool = False) -> Assignment:
        if tokens.noise is None:
            return super().assign(x_VTD, tokens, by_step=by_step)
        made = Table(self.start_K.clone(), self.length_K.clone())
        generator = torch.Generator().manual_seed(tokens.noise.seed + 1000 * tokens.noise.update)
        order_K = torch.randperm(len(made.length_K), generator=generator)
        # The lengths are the shares that the counts gave.
        self.fill(Table.of(made.length_K, order_K, num_experts=self.num_experts))
        assignment = super().assign(x_VTD, tokens, by_step=by_step)
        self.fill(made)
        return assignment


def main() -> int:
    """Train with tables that change."""
    arguments = sys.argv[1:]
    if arguments[:2] != ["--processes", "1"]:  # others would be started without the change
        sys.exit("benchmarks.changing_tables trains in one process; --processes 1 must come first")
    build.TokenTable = ChangingTable  # type: ignore[misc]
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
