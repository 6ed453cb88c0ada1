"""What a MoE layer reports: sums that add up over ranks, batches, processes. Level 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from user_dir.fast_moe.routing import Routing

# Columns of a layer's sums, in order; the load of each expert follows.
COLUMNS = (
    "tokens",
    "first_dropped",
    "second_made",
    "second_dropped",
    "unrouted",
    "entropy",
    "balance_loss",
    "balance_ranks",
)


@dataclass(frozen=True)
class LayerSums:
    """One layer's sums, split into their columns."""

    tokens: float
    first_dropped: float
    second_made: float
    second_dropped: float
    unrouted: float
    entropy: float
    balance_loss: float
    balance_ranks: float
    loads: list[float]

    @staticmethod
    def of(sums: Tensor) -> "LayerSums":
        values = sums.tolist()
        by_name = dict(zip(COLUMNS, values[: len(COLUMNS)], strict=True))
        return LayerSums(loads=values[len(COLUMNS) :], **by_name)


def layer_sums(
    routing: Routing, is_pad_VT: Tensor, *, entropy_V: Tensor, balance_loss_V: Tensor
) -> Tensor:
    """The sums of one layer over the ranks of this process, (columns + E,), float64."""
    is_made_VTK = routing.expert_ids_VTK >= 0
    is_dropped_VTK = is_made_VTK & (routing.slots_VTK < 0)
    is_unrouted_VT = ~is_pad_VT & (routing.slots_VTK < 0).all(dim=-1)
    made_K, dropped_K = is_made_VTK.sum((0, 1)), is_dropped_VTK.sum((0, 1))
    zero = made_K.new_zeros(())
    loads_E = routing.counts_VE
    if routing.capacity is not None:
        loads_E = loads_E.clamp(max=routing.capacity)
    has_second = routing.num_choices > 1
    sums = [
        (~is_pad_VT).sum(),
        dropped_K[0],
        made_K[1] if has_second else zero,
        dropped_K[1] if has_second else zero,
        is_unrouted_VT.sum(),
        entropy_V.sum(),
        balance_loss_V.detach().sum(),
        (~is_pad_VT).any(dim=1).sum(),
    ]
    columns = torch.stack([value.double() for value in sums])
    return torch.cat([columns, loads_E.sum(dim=0).double()])
