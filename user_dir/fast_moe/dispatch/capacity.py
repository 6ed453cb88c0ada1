"""Dispatch with fixed capacity: rectangular buffers, no host synchronisation.

Shape suffixes: V hosted ranks, E experts in reach, B ranks of a block, L experts served here,
C slots of an expert for one rank, D width.
"""

from torch import Tensor

from user_dir.fast_moe.dispatch.direct import DirectTrip, RowLayout
from user_dir.fast_moe.exchange.all_to_all import Exchange, Line


class CapacityTrip(DirectTrip):
    """Every expert has C rows for each rank in its reach; slots that nobody got are 0."""

    def _lay_out(self) -> RowLayout:
        plan, orders = self.plan, self.orders
        place_VE = orders.place.view_as(self.routing.counts_VE)
        rows_of_pair = self.per_rank * self.capacity
        return RowLayout(
            start_VE=place_VE * self.capacity,
            num_rows=place_VE.numel() * self.capacity,
            exchange=Exchange(
                plan.group,
                send_counts=[pairs * rows_of_pair for pairs in plan.send_splits],
                receive_counts=[pairs * rows_of_pair for pairs in plan.receive_splits],
                after=orders.to_experts,
            ),
        )

    def arrive(self, line: Line) -> Tensor:
        rows_MD = super().arrive(line)
        served = self.plan.num_hosted * self.per_rank
        return rows_MD.view(served, self.plan.block_size * self.capacity, rows_MD.shape[-1])

    def answer(self, outputs: Tensor, line: Line) -> None:
        super().answer(outputs.flatten(0, 1), line)

    def sent_bytes(self) -> tuple[int, int, int]:
        of_pair = 2 * self.per_rank * self.capacity * self.row_bytes
        on_rank, in_node, between = (of_pair * n for n in self.plan.pairs_by_distance)
        return on_rank, in_node, between

    @property
    def capacity(self) -> int:
        assert self.routing.capacity is not None
        return self.routing.capacity
