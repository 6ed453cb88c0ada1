"""An all-to-all of rows between processes: posted now, awaited later."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclass
class Posted:
    """Rows on their way; ``wait`` must be called once."""

    received: Tensor
    sent: Tensor  # must live until it has left
    works: list[Any]

    def wait(self) -> Tensor:
        """The rows that arrived; on a GPU the current stream waits, not the host."""
        for work in self.works:
            work.wait()
        return self.received


def post(
    rows_MD: Tensor,
    group: dist.ProcessGroup | None,
    send_counts: list[int],
    receive_counts: list[int],
) -> Posted:
    """Start an all-to-all of contiguous rows.

    Args:
        group: None: everything stays in this process, and nothing is copied.
        send_counts, receive_counts: rows for and from each process of the group, in its order.
    """
    if group is None:
        return Posted(received=rows_MD.detach(), sent=rows_MD, works=[])
    received = rows_MD.new_empty(sum(receive_counts), *rows_MD.shape[1:])
    if dist.get_backend(group) == "gloo":
        works = _post_point_to_point(received, rows_MD, group, send_counts, receive_counts)
    else:
        works = [
            dist.all_to_all_single(
                received, rows_MD, receive_counts, send_counts, group=group, async_op=True
            )
        ]
    return Posted(received=received, sent=rows_MD, works=works)


def _post_point_to_point(
    received: Tensor,
    rows_MD: Tensor,
    group: dist.ProcessGroup,
    send_counts: list[int],
    receive_counts: list[int],
) -> list[Any]:
    """Every receive before any send: steadier over slow links than gloo's own all-to-all."""
    own = dist.get_rank(group)
    incoming, outgoing = received.split(receive_counts), rows_MD.split(send_counts)
    incoming[own].copy_(outgoing[own])
    # Beginning with the next process, so that not all of them send to the same one at first.
    peers = [(own + step) % len(incoming) for step in range(1, len(incoming))]
    return [
        dist.irecv(incoming[peer], group=group, group_src=peer)
        for peer in peers
        if receive_counts[peer]
    ] + [
        dist.isend(outgoing[peer], group=group, group_dst=peer)
        for peer in peers
        if send_counts[peer]
    ]
