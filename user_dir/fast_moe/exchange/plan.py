"""Who sends what to whom when each block of consecutive ranks swaps rows.

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
    """The order of this process's pairs on the wire; pair (v, j) has index v · block_size + j.

    ``send_order[i]`` is the pair sent in place i, so grouped by receiving process;
    ``receive_order[i]`` is the pair (hosted receiver, sender within the block) that arrives in
    place i. Splits count pairs for each process of ``group``.
    """

    block_size: int
    num_hosted: int
    send_order: Tensor
    receive_order: Tensor
    send_splits: tuple[int, ...]
    receive_splits: tuple[int, ...]
    distance: Tensor  # (V, block): 0 where a pair stays on its rank, 1 in its node, 2 leaves it
    group: dist.ProcessGroup | None  # None: everything stays in this process
    _orders: dict[tuple[int, torch.device], ChunkOrders] = field(default_factory=dict, repr=False)

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
            rank_V = torch.arange(self.num_hosted).view(-1, 1, 1)
            receiver_VB1 = rank_V // block * block + torch.arange(block).view(1, -1, 1)
            place = ((receiver_VB1 * per_rank + expert_n) * block + rank_V % block).flatten()
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
        block_size: int,
        ranks_per_node: int,
        process_index: int,
        num_processes: int,
    ) -> "ExchangePlan":
        """Make the plan of one process, process groups included: every process must call it."""
        num_hosted = num_ranks // num_processes
        peers_of = _linked_processes(num_ranks, block_size, num_processes)
        group = None
        timeout = _timeout_of_all() if num_processes > 1 else None
        # Every process takes part in making every group, in one order.
        for peers in sorted(set(peers_of)):
            if len(peers) > 1:
                made = dist.new_group(list(peers), timeout=timeout)
                if process_index in peers:
                    group = made
        peers = peers_of[process_index]
        send = _pairs_to_send(process_index, num_hosted, block_size, peers)
        receive = _pairs_to_receive(process_index, num_hosted, block_size, peers)
        return ExchangePlan(
            block_size=block_size,
            num_hosted=num_hosted,
            send_order=torch.tensor([pair for part in send for pair in part]),
            receive_order=torch.tensor([pair for part in receive for pair in part]),
            send_splits=tuple(len(part) for part in send),
            receive_splits=tuple(len(part) for part in receive),
            distance=_distances(
                range(process_index * num_hosted, (process_index + 1) * num_hosted),
                block_size,
                ranks_per_node,
            ),
            group=group,
        )


def _timeout_of_all() -> timedelta:
    """How long the default group waits; one that is made without it gets its back end's."""
    world = dist.group.WORLD
    assert world is not None, "processes are connected before groups of them are made"
    return world._get_backend(world._device_types[0]).options._timeout


def _linked_processes(num_ranks: int, block_size: int, num_processes: int) -> list[tuple[int, ...]]:
    """For each process, all the processes that blocks connect it with, itself included."""
    num_hosted = num_ranks // num_processes
    linked: list[tuple[int, ...]] = []
    current: list[int] = [0]
    for process in range(1, num_processes):
        first_rank = process * num_hosted
        if first_rank % block_size == 0:  # a block ends where this process begins
            linked += [tuple(current)] * len(current)
            current = []
        current.append(process)
    return linked + [tuple(current)] * len(current)


def _block_of(rank: int, block_size: int) -> range:
    first = rank - rank % block_size
    return range(first, first + block_size)


def _distances(ranks: range, block_size: int, ranks_per_node: int) -> Tensor:
    def distance(sender: int, receiver: int) -> int:
        if sender == receiver:
            return 0
        return 1 if sender // ranks_per_node == receiver // ranks_per_node else 2

    return torch.tensor(
        [[distance(rank, other) for other in _block_of(rank, block_size)] for rank in ranks]
    )


def _pairs_to_send(
    process: int, num_hosted: int, block_size: int, peers: tuple[int, ...]
) -> list[list[int]]:
    """This process's pairs for each peer, ordered by sender, then receiver."""
    parts: dict[int, list[int]] = {peer: [] for peer in peers}
    for hosted in range(num_hosted):
        for place, receiver in enumerate(_block_of(process * num_hosted + hosted, block_size)):
            parts[receiver // num_hosted].append(hosted * block_size + place)
    return list(parts.values())


def _pairs_to_receive(
    process: int, num_hosted: int, block_size: int, peers: tuple[int, ...]
) -> list[list[int]]:
    """Where what each peer sends belongs: pairs (hosted receiver, sender within its block)."""
    parts: list[list[int]] = []
    for peer in peers:
        part: list[int] = []
        for sender in range(peer * num_hosted, (peer + 1) * num_hosted):
            for receiver in _block_of(sender, block_size):
                if receiver // num_hosted == process:
                    hosted = receiver - process * num_hosted
                    part.append(hosted * block_size + sender % block_size)
        parts.append(part)
    return parts
