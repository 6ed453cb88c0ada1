"""What a MoE layer reports: sums that add up over ranks, batches, processes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.slots import Routing


@dataclass(frozen=True)
class RoutedPart:
    """What a layer did with the tokens of one reach."""

    reach: Reach
    routing: Routing
    num_tokens_V: Tensor
    entropy_V: Tensor
    experts_VE: Tensor  # global ids of the experts in reach of each hosted rank
    sent_bytes: tuple[int, int, int]  # there and back: within ranks, within nodes, between nodes


@dataclass(frozen=True)
class LayerSums:
    """One layer's sums by name; the load of each expert comes last.

    Tokens count once for each reach that they pass (in SCoMoE-Feat all of them).
    """

    tokens: float
    first_dropped: float
    second_made: float
    second_dropped: float
    unrouted: float
    entropy: float
    balance_loss: float
    balance_ranks: float
    tokens_local: float
    tokens_node: float
    tokens_global: float
    bytes_rank: float
    bytes_node: float
    bytes_between: float
    assignment_seconds: float
    loads: list[float]

    @staticmethod
    def of(sums: Tensor) -> "LayerSums":
        """Read what `layer_sums` wrote."""
        values = sums.tolist()
        by_name = dict(zip(COLUMNS, values[: len(COLUMNS)], strict=True))
        return LayerSums(loads=values[len(COLUMNS) :], **by_name)


@dataclass(frozen=True)
class MoeReport:
    """What a layer tells the criterion: its balance loss on each hosted rank, its statistics.

    The balance loss is None for a layer of kind CLUSTER, which is balanced by what it is.
    """

    name: str
    kind: LayerKind
    balance_loss_V: Tensor | None
    sums: Tensor  # see `layer_sums`


COLUMNS = tuple(field.name for field in fields(LayerSums) if field.name != "loads")


def layer_sums(
    parts: Sequence[RoutedPart],
    *,
    num_experts: int,
    balance_loss_V: Tensor,
    has_balance_V: Tensor,
    assignment_seconds: float = 0.0,
) -> Tensor:
    """The sums of one layer over the ranks of this process, (columns + E,), float64.

    Args:
        has_balance_V: ranks whose balance loss counts.
    """
    counts = torch.stack([_count_choices(part) for part in parts]).sum(0)
    tokens = {part.reach: part.num_tokens_V.sum().double() for part in parts}
    zero = counts.new_zeros(())
    by_reach = [tokens.get(reach, zero) for reach in Reach]
    entropy = torch.stack([part.entropy_V.sum().double() for part in parts]).sum()
    sent = [sum(part.sent_bytes[distance] for part in parts) for distance in range(3)]
    columns = [
        torch.stack(by_reach).sum(),
        *counts,
        entropy,
        balance_loss_V.detach().sum().double(),
        has_balance_V.sum().double(),
        *by_reach,
    ]
    # Filled on the device: a copy would make the host wait for a GPU.
    known = [zero.new_full((), value) for value in (*map(float, sent), assignment_seconds)]
    loads_E = zero.new_zeros(num_experts)
    for part in parts:
        loads_VE = part.routing.counts_VE
        if part.routing.capacity is not None:
            loads_VE = loads_VE.clamp(max=part.routing.capacity)
        loads_E = loads_E.index_add(0, part.experts_VE.flatten(), loads_VE.flatten().double())
    return torch.cat([torch.stack([*columns, *known]), loads_E])


def _count_choices(part: RoutedPart) -> Tensor:
    """First choices dropped, second choices made and dropped, tokens without any expert."""
    routing = part.routing
    is_made_VTK = routing.expert_ids_VTK >= 0
    is_dropped_VTK = is_made_VTK & (routing.slots_VTK < 0)
    is_unrouted_VT = is_made_VTK[..., 0] & (routing.slots_VTK < 0).all(dim=-1)
    made_K, dropped_K = is_made_VTK.sum((0, 1)), is_dropped_VTK.sum((0, 1))
    has_second = routing.num_choices > 1
    zero = made_K.new_zeros(())
    return torch.stack(
        [
            dropped_K[0],
            made_K[1] if has_second else zero,
            dropped_K[1] if has_second else zero,
            is_unrouted_VT.sum(),
        ]
    ).double()
