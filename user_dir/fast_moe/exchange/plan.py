"""Who sends what to whom when each block of ranks swaps rows.

A *pair* is what rank r has for one rank of its block, a *chunk* what it has for one expert there.
A plan orders this process's pairs for one all-to-all, whatever the alignment of blocks and
processes.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from user_dir.fast_moe.gathers import Permutation, invert_permutation


@dataclass(frozen=True)
class Blocks:
    """Which ranks swap rows: ``size`` of them, each ``stride`` behind the one before."""

    size: int
    stride: int = 1

    def place(self, rank):
        """A rank's place among those of its block; of an int, or of each in a tensor."""
        return rank // self.stride % self.size

    def of(self, rank: int) -> range:
        """The ranks of a rank's block, in order."""
        first = rank - self.place(rank) * self.stride
        return range(first, first + self.size * self.stride, self.stride)


@dataclass(frozen=True)
class ChunkOrders:
    """How the chunks of this process leave, and how those that come are brought to the experts.

    Chunk (v, e) is what hosted rank v has for expert e of those in its reach; they are counted
    v·E + e. At the experts, chunks lie expert by expert, those of an expert by sending rank.
    """

    leaving: Tensor  # the chunk in each place of departure
    place: Tensor  # the inverse: each chunk's place of departure
    to_experts: Permutation | None  # None: chunks leave in the experts' order, for none is swapped


@dataclass(frozen=True, eq=False)
class ExchangePlan:
    """The order of this process's pairs on the wire; pair (v, j) has index v · block size + j.

    ``send_order[i]`` is the pair sent in place i, so grouped by receiving process;
    ``receive_order[i]`` is the pair (hosted receiver, sender within the block) that arrives in
    place i. Splits count pairs for each process of ``group``.
    """

    blocks: Blocks
    first_rank: int  # of those hosted here
    num_hosted: int
    send_order: Tensor
    receive_order: Tensor
    send_splits: tuple[int, ...]
    receive_splits: tuple[int, ...]
    distance: Tensor  # (V, block): 0 where a pair stays on its rank, 1 in its node, 2 leaves it
    group: dist.ProcessGroup | None  # None: everything stays in this process
    _orders: dict[tuple[int, torch.device], ChunkOrders] = field(default_factory=dict, repr=False)

    @property
    def block_size(self) -> int:
        """Ranks of a block."""
        return self.blocks.size

    def own_places(self, device: torch.device) -> Tensor:
        """The place of each hosted rank in its block, (V,)."""
        return self.blocks.place(torch.arange(self.num_hosted, device=device) + self.first_rank)

    @cached_property
    def pairs_by_distance(self) -> tuple[int, int, int]:
        """How many pairs stay on their rank, stay in their node, leave it."""
        on_rank, in_node, between = self.distance.flatten().bincount(minlength=3).tolist()
        return on_rank, in_node, between

    def orders(self, per_rank: int, device: torch.device) -> ChunkOrders:
        """The orders of chunks, with that many experts a rank; copied to a device once."""
        key = per_rank, device
        if key not in self._orders:
            self._orders[key] = self._order_chunks(per_rank, device)
        return self._orders[key]

    def sum_by_distance(self, values_VB: Tensor) -> tuple[int, int, int]:
        """Sums over the pairs that stay on their rank, stay in their node, leave it."""
        return tuple(int(values_VB[self.distance == d].sum()) for d in range(3))  # type: ignore

    def _order_chunks(self, per_rank: int, device: torch.device) -> ChunkOrders:
        block, expert_n = self.block_size, torch.arange(per_rank)
        if self.group is None:
            # Whole blocks are here, from the first of their ranks on.
            receiver_VB1 = torch.tensor([[*self.blocks.of(v)] for v in range(self.num_hosted)])
            place_V11 = self.blocks.place(torch.arange(self.num_hosted)).view(-1, 1, 1)
            place = (receiver_VB1.unsqueeze(-1) * per_rank + expert_n) * block + place_V11
            place = place.flatten()
            return ChunkOrders(invert_permutation(place).to(device), place.to(device), None)
        leaving = (self.send_order.unsqueeze(-1) * per_rank + expert_n).flatten()
        receiver, sender = self.receive_order // block, self.receive_order % block
        at_experts = (receiver.unsqueeze(-1) * per_rank + expert_n) * block + sender.unsqueeze(-1)
        to_experts = Permutation.of(invert_permutation(at_experts.flatten()).to(device))
        return ChunkOrders(leaving.to(device), invert_permutation(leaving).to(device), to_experts)

    @staticmethod
    def build(
        *,
        num_ranks: int,
        blocks: Blocks,
        ranks_per_node: int,
        process_index: int,
        num_processes: int,
    ) -> "ExchangePlan":
        """Make the plan of one process, process groups included: every process must call it."""
        num_hosted = num_ranks // num_processes
        peers_of = _linked_processes(num_ranks, blocks, num_processes)
        group = None
        timeout = _timeout_of_all() if num_processes > 1 else None
        # Every process takes part in making every group, in one order.
        for peers in sorted(set(peers_of)):
            if len(peers) > 1:
                made = dist.new_group(list(peers), timeout=timeout)
                if process_index in peers:
                    group = made
        peers = peers_of[process_index]
        send = _pairs_to_send(process_index, num_hosted, blocks, peers)
        receive = _pairs_to_receive(process_index, num_hosted, blocks, peers)
        return ExchangePlan(
            blocks=blocks,
            first_rank=process_index * num_hosted,
            num_hosted=num_hosted,
            send_order=torch.tensor([pair for part in send for pair in part]),
            receive_order=torch.tensor([pair for part in receive for pair in part]),
            send_splits=tuple(len(part) for part in send),
            receive_splits=tuple(len(part) for part in receive),
            distance=_distances(
                range(process_index * num_hosted, (process_index + 1) * num_hosted),
                blocks,
                ranks_per_node,
            ),
            group=group,
        )


def _timeout_of_all() -> timedelta:
    """How long the default group waits; one that is made without it gets its back end's."""
    world = dist.group.WORLD
    assert world is not None, "processes are connected before groups of them are made"
    return world._get_backend(world._device_types[0]).options._timeout


def _linked_processes(num_ranks: int, blocks: Blocks, num_processes: int) -> list[tuple[int, ...]]:
    """For each process, all the processes that blocks connect it with, itself included."""
    num_hosted = num_ranks // num_processes
    linked = [{process} for process in range(num_processes)]
    for rank in range(num_ranks):
        ours, theirs = (linked[r // num_hosted] for r in (blocks.of(rank)[0], rank))
        if ours is not theirs:
            ours |= theirs
            for process in theirs:
                linked[process] = ours
    return [tuple(sorted(processes)) for processes in linked]


def _distances(ranks: range, blocks: Blocks, ranks_per_node: int) -> Tensor:
    def distance(sender: int, receiver: int) -> int:
        if sender == receiver:
            return 0
        return 1 if sender // ranks_per_node == receiver // ranks_per_node else 2

    return torch.tensor([[distance(rank, other) for other in blocks.of(rank)] for rank in ranks])


def _pairs_to_send(
    process: int, num_hosted: int, blocks: Blocks, peers: tuple[int, ...]
) -> list[list[int]]:
    """This process's pairs for each peer, ordered by sender, then receiver."""
    parts: dict[int, list[int]] = {peer: [] for peer in peers}
    for hosted in range(num_hosted):
        for place, receiver in enumerate(blocks.of(process * num_hosted + hosted)):
            parts[receiver // num_hosted].append(hosted * blocks.size + place)
    return list(parts.values())


def _pairs_to_receive(
    process: int, num_hosted: int, blocks: Blocks, peers: tuple[int, ...]
) -> list[list[int]]:
    """Where what each peer sends belongs: pairs (hosted receiver, sender within its block)."""
    parts: list[list[int]] = []
    for peer in peers:
        part: list[int] = []
        for sender in range(peer * num_hosted, (peer + 1) * num_hosted):
            for receiver in blocks.of(sender):
                if receiver // num_hosted == process:
                    hosted = receiver - process * num_hosted
                    part.append(hosted * blocks.size + blocks.place(sender))
        parts.append(part)
    return parts
