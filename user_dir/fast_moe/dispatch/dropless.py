"""Dropless dispatch: as many rows travel as there are tokens for an expert.

Shape suffixes: V hosted ranks, E experts in reach, B ranks of a block, n experts of a rank,
L experts served here, P chunks (see `ChunkOrders`), M rows, D width.
"""

import torch
from torch import Tensor, nn

from user_dir.fast_moe.dispatch.direct import DirectTrip, RowLayout
from user_dir.fast_moe.exchange.all_to_all import Exchange
from user_dir.fast_moe.exchange.plan import ChunkOrders, ExchangePlan
from user_dir.fast_moe.gathers import Permutation
from user_dir.fast_moe.routing.slots import Routing


class DroplessTrip(DirectTrip):
    """Every token finds a row at each of its experts.

    Args:
        most_rows: what all choices together can be at most, where they stay on their rank; then
            the host need not wait for their number, and rows beyond it are 0.
    """

    def __init__(
        self,
        x_VTD: Tensor,
        routing: Routing,
        plan: ExchangePlan,
        experts: nn.Module,
        *,
        most_rows: int | None = None,
    ):
        super().__init__(x_VTD, routing, plan, experts)
        self.most_rows = most_rows
        assert most_rows is None or plan.block_size == 1

    def _lay_out(self) -> RowLayout:
        """Counts go ahead of the rows. Communicates, and makes the host wait, where rows leave
        their rank."""
        lengths_P = self.routing.counts_VE.flatten()[self.orders.leaving]
        if self.most_rows is not None:
            num_rows, self.counts = self.most_rows, lengths_P
            exchange = Exchange(None, send_counts=[], receive_counts=[])
        elif self.plan.group is None:
            # Host sync: exact counts decide the size of the rows.
            self._sent_P = lengths_P.cpu()
            num_rows = int(self._sent_P.sum())
            self.counts = self._sent_P.view(-1, self.plan.block_size).sum(1).tolist()
            exchange = Exchange(None, send_counts=[], receive_counts=[])
        else:
            exchange = self._exchange_of(lengths_P)
            num_rows = sum(exchange.send_counts)
        first_P = lengths_P.cumsum(0) - lengths_P
        start_VE = first_P[self.orders.place].view_as(self.routing.counts_VE)
        return RowLayout(start_VE, num_rows, exchange)

    def sent_bytes(self) -> tuple[int, int, int]:
        if self.most_rows is not None:
            return 2 * self.row_bytes * self.most_rows, 0, 0
        return self.bytes_of_rows(2 * self.row_bytes)

    def bytes_of_rows(self, row_bytes: int) -> tuple[int, int, int]:
        """Of the rows, if each has that many, and of the counts ahead of them."""
        counts_VBn = self._sent_P[self._orders_on_host.place].view(
            self.plan.num_hosted, self.plan.block_size, self.per_rank
        )
        ahead = self.per_rank * counts_VBn.element_size()
        return self.plan.sum_by_distance(row_bytes * counts_VBn.sum(-1) + ahead)

    @property
    def _orders_on_host(self) -> ChunkOrders:
        return self.plan.orders(self.per_rank, torch.device("cpu"))

    def _exchange_of(self, sent_P: Tensor) -> Exchange:
        plan, to_experts = self.plan, self.orders.to_experts
        on_host = self._orders_on_host.to_experts
        assert to_experts is not None and on_host is not None
        chunk_splits = [
            [pairs * self.per_rank for pairs in splits]
            for splits in (plan.send_splits, plan.receive_splits)
        ]
        ahead = Exchange(plan.group, send_counts=chunk_splits[0], receive_counts=chunk_splits[1])
        received_P = ahead.run(sent_P)
        # Host sync: split sizes live on the CPU, and exact counts are known on no other rank.
        self._sent_P, arrived_P = torch.stack([sent_P, received_P]).cpu()
        by_expert_P = arrived_P[on_host.order]
        self.counts = by_expert_P.view(-1, plan.block_size).sum(1).tolist()
        return Exchange(
            plan.group,
            send_counts=[int(part.sum()) for part in self._sent_P.split(chunk_splits[0])],
            receive_counts=[int(part.sum()) for part in arrived_P.split(chunk_splits[1])],
            after=Permutation.of(
                _rows_of_chunks(received_P, to_experts.order, num_rows=int(arrived_P.sum()))
            ),
        )


def _rows_of_chunks(lengths_P: Tensor, order_P: Tensor, *, num_rows: int) -> Tensor:
    """The rows of chunks that lie one after the other, listed chunk by chunk in another order."""
    first_P = (lengths_P.cumsum(0) - lengths_P)[order_P]
    lengths_P = lengths_P[order_P]
    shift_P = first_P - (lengths_P.cumsum(0) - lengths_P)
    shift_M = shift_P.repeat_interleave(lengths_P, output_size=num_rows)
    return shift_M + torch.arange(num_rows, device=lengths_P.device)
