"""The accelerators that a model is laid out for, and the processes that run them.

A layout has R = nodes · ranks_per_node *logical* ranks. P processes host them, V = R / P
consecutive ranks each. Rank r holds experts r·n … r·n+n-1, n = E / R; where there are fewer
experts than ranks, rank r holds a replica of expert r mod E.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.exchange.plan import Blocks, ExchangePlan
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach


class Topology:
    """A layout, the number of experts, and this process's place in it.

    Args:
        layout: the logical ranks.
        num_experts: E; a multiple of the number of ranks, or a divisor of it (replicas).
        process_index, num_processes: this process among those that host the layout; by default
            those of `torch.distributed`, or one process.

    Raises:
        ValueError: the experts or the processes do not fit the layout.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        num_experts: int,
        process_index: int | None = None,
        num_processes: int | None = None,
    ):
        self.layout = layout
        self.num_experts = num_experts
        running_index, running_count = running_processes()
        self.process_index = running_index if process_index is None else process_index
        self.num_processes = running_count if num_processes is None else num_processes
        _check_experts(num_experts, layout.num_ranks)
        _check_processes(self.num_processes, layout)
        self._plans: dict[Blocks, ExchangePlan] = {}
        self._experts_in: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def num_ranks(self) -> int:
        return self.layout.num_ranks

    @cached_property
    def hosted_ranks(self) -> range:
        """The logical ranks of this process."""
        num_hosted = self.num_ranks // self.num_processes
        return range(self.process_index * num_hosted, (self.process_index + 1) * num_hosted)

    @property
    def num_hosted(self) -> int:
        return len(self.hosted_ranks)

    @property
    def experts_per_rank(self) -> int:
        return max(1, self.num_experts // self.num_ranks)

    @property
    def block_size(self) -> int:
        """Consecutive ranks that together hold every expert once."""
        return min(self.num_experts, self.num_ranks)

    def held_experts(self, process_index: int) -> list[int]:
        """Global ids of the distinct experts whose weights a process holds, ascending."""
        num_hosted = self.num_ranks // self.num_processes
        ranks = range(process_index * num_hosted, (process_index + 1) * num_hosted)
        return sorted({expert for rank in ranks for expert in self.experts_of_rank(rank)})

    def experts_of_rank(self, rank: int) -> list[int]:
        first = rank * self.experts_per_rank
        return [(first + i) % self.num_experts for i in range(self.experts_per_rank)]

    @property
    def num_processes_per_expert(self) -> int:
        """Processes that hold a copy of one expert; the same for every expert."""
        return self.num_processes * len(self.held_experts(0)) // self.num_experts

    def plan(self, reach: Reach) -> ExchangePlan:
        """How tokens travel among the ranks in reach of each other (process groups included).

        The first call for a reach makes process groups, so every process must make it.
        """
        return self._plan_of(Blocks(self.block_of_reach(reach)))

    def plan_between_nodes(self) -> ExchangePlan:
        """How tokens travel among the ranks that have one place in their nodes.

        Their blocks and those of `Reach.NODE` together reach as far as `Reach.GLOBAL`. Makes
        process groups, as `plan` does.
        """
        return self._plan_of(Blocks(self.nodes_in_reach, stride=self.layout.ranks_per_node))

    @property
    def nodes_in_reach(self) -> int:
        """Nodes that hold every expert once together; 1 where one node does by itself."""
        return max(1, self.block_size // self.layout.ranks_per_node)

    def _plan_of(self, blocks: Blocks) -> ExchangePlan:
        if blocks not in self._plans:
            self._plans[blocks] = ExchangePlan.build(
                num_ranks=self.num_ranks,
                blocks=blocks,
                ranks_per_node=self.layout.ranks_per_node,
                process_index=self.process_index,
                num_processes=self.num_processes,
            )
        return self._plans[blocks]

    def num_experts_in(self, reach: Reach) -> int:
        """Experts that a token of that reach can go to."""
        return self.block_of_reach(reach) * self.experts_per_rank

    def experts_in(self, reach: Reach, device: torch.device) -> Tensor:
        """(V, experts in reach): their global ids for each hosted rank, in the plan's order.

        Copied to a device once: a copy in every layer would make the host wait for a GPU.
        """
        block = self.block_of_reach(reach)
        if (block, device) not in self._experts_in:
            size = self.num_experts_in(reach)
            first = [rank // block * size % self.num_experts for rank in self.hosted_ranks]
            experts_VE = torch.tensor(first).unsqueeze(-1) + torch.arange(size)
            self._experts_in[block, device] = experts_VE.to(device)
        return self._experts_in[block, device]

    def block_of_reach(self, reach: Reach) -> int:
        """Consecutive ranks in reach of each other."""
        if reach is Reach.LOCAL:
            return 1
        return self.layout.ranks_per_node if reach is Reach.NODE else self.block_size


def _check_experts(num_experts: int, num_ranks: int) -> None:
    if num_experts < 1:
        raise UserError(f"--moe-expert-count must be at least 1, but is {num_experts}")
    if num_experts % num_ranks and num_ranks % num_experts:
        near = _nearest(num_experts, lambda count: not (count % num_ranks and num_ranks % count))
        raise UserError(
            f"--moe-expert-count ({num_experts}) must be a multiple or a divisor of the number "
            f"of logical ranks ({num_ranks}); {near} would do"
        )


def _check_processes(num_processes: int, layout: Layout) -> None:
    if layout.num_ranks % num_processes:
        near = _nearest(num_processes, lambda count: layout.num_ranks % count == 0)
        raise UserError(
            f"{num_processes} processes cannot host {layout.num_ranks} logical ranks "
            f"({layout}) evenly; run {near} processes, or another --moe-nodes / "
            "--moe-ranks-per-node"
        )


def _nearest(value: int, fits: Callable[[int], bool]) -> int:
    distance = next(
        d for d in range(value + 1_000_000) if fits(value + d) or (value > d and fits(value - d))
    )
    return value - distance if value > distance and fits(value - distance) else value + distance
