"""What the sums of the MoE layers say, layer by layer, as it is written down; docs/statistics.md.

Shape suffixes: G layers, E experts, L directions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from user_dir.fast_moe.clustering.meaning import KINDS, mutual_information
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.report import BY_EXPERTS, LayerSums
from user_dir.training.cluster_metrics import PREFIX as KINDS_PREFIX
from user_dir.training.metrics import DIRECTIONS_PREFIX, OF_CHOICES, PREFIX

# Loads of all layers, at most: with more experts, those of neighbours are added up.
_MOST_LOADS = 2**14

_SUMS = (
    "tokens",
    "tokens_local",
    "tokens_node",
    "tokens_global",
    "bytes_rank",
    "bytes_node",
    "bytes_between",
)
# Not of a clustering layer: its tokens choose no expert, and nothing is dropped.
_SHARES = {
    "overflow1": ("first_dropped", "tokens"),
    "overflow2": ("second_dropped", "second_made"),
    "unrouted": ("unrouted", "tokens"),
    "entropy": ("entropy", "tokens"),
    "balance_loss": ("balance_loss", "balance_ranks"),
}


def layer_records(totals: Mapping[str, Any], directions: Sequence[str]) -> dict[str, Any]:
    """A record for each layer by its name, from logging outputs added up. Waits for a GPU.

    Args:
        directions: names of what `by_direction` counts.
    """
    records: dict[str, Any] = {}
    for key, sums_G in totals.items():
        if key.startswith(PREFIX):
            layers = dict(part.split("=") for part in key.removeprefix(PREFIX).split(","))
            records |= _of_sums(layers, LayerSums.of(sums_G.cpu()))
    for key, counts in totals.items():
        if key.startswith(DIRECTIONS_PREFIX):
            names = key.removeprefix(DIRECTIONS_PREFIX).split(",")
            for name, counts_LE in zip(names, counts.long().tolist(), strict=True):
                by_direction = zip(directions, counts_LE, strict=True)
                records[name]["by_direction"] = {one: row for one, row in by_direction if any(row)}
        elif key.startswith(KINDS_PREFIX):
            counts_KG = counts.cpu()
            records[key.removeprefix(KINDS_PREFIX)]["cluster_bits"] = {
                of: _rounded(mutual_information(counts_KG, of)) for of in KINDS
            }
    return records


def _of_sums(layers: Mapping[str, str], sums: LayerSums) -> dict[str, Any]:
    loads_GE = sums["loads"].long()
    per_load = math.ceil(loads_GE.numel() / _MOST_LOADS)
    records = {}
    for index, (name, label) in enumerate(layers.items()):
        kind, by_experts = label.removesuffix(BY_EXPERTS), label.endswith(BY_EXPERTS)
        record: dict[str, Any] = {"kind": kind}
        record |= {of: int(sums[of][index]) for of in _SUMS}
        if kind != LayerKind.CLUSTER.value:
            for share, (part, whole) in _SHARES.items():
                if by_experts and share in OF_CHOICES:
                    continue
                of_whole = float(sums[whole][index])
                record[share] = _rounded(float(sums[part][index]) / of_whole) if of_whole else 0.0
        record["load"] = _added_up(loads_GE[index], per_load)
        if per_load > 1:
            record["experts_per_load"] = per_load
        records[name] = record
    return records


def _added_up(load_E: Tensor, neighbours: int) -> list[int]:
    return [int(part.sum()) for part in load_E.split(neighbours)]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
