"""Scalars for the logs from the sums of the MoE layers.

Every update gives its share to what is logged of an interval, but numbers are only read when
somebody logs them: fairseq averages one hidden tensor with the values of all layers, and what it
shows is read from that, with one copy to the host for all.

Shape suffixes: G layers, S scalars of a layer.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from fairseq.logging import metrics
from fairseq.logging.meters import safe_round
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.report import BY_EXPERTS, LayerSums, MoeReport, gather_sums

# Among the logging outputs, the sums of all layers stand under this and the layers' names.
PREFIX = "moe_sums:"
# Under this and the names of the layers that count by direction, their counts (layers, L, E).
DIRECTIONS_PREFIX = "moe_directions:"

# Of a mixture: shares of the choices made (overflow), of the tokens (unrouted, reaches), of an even
# load; nats a token. By name: what is divided by what.
_OF_MIXTURES = {
    "balance_loss": ("balance_loss", "balance_ranks"),
    "overflow1": ("first_dropped", "tokens"),
    "overflow2": ("second_dropped", "second_made"),
    "unrouted": ("unrouted", "tokens"),
    "load_max": ("load_max", "load_mean"),
    "load_min": ("load_min", "load_mean"),
    "entropy": ("entropy", "tokens"),
    "tokens_local": ("tokens_local", "tokens"),
    "tokens_node": ("tokens_node", "tokens"),
    "tokens_global": ("tokens_global", "tokens"),
}
# Of these, what says nothing where experts choose: they drop nothing and are balanced.
OF_CHOICES = ("balance_loss", "overflow1", "overflow2")
# Of a clustering layer: sizes relative to an even one; milliseconds of all processes together.
_OF_CLUSTERS = {
    "cluster_max": ("load_max", "load_mean"),
    "cluster_min": ("load_min", "load_mean"),
    "assignment_ms": ("assignment_seconds", "millisecond"),
}
# Of both: bytes of a forward pass on all ranks. Over several layers they are added up.
_SENT = {name: (name, "one") for name in ("bytes_rank", "bytes_node", "bytes_between")}
_SCALARS = {**_OF_MIXTURES, **_OF_CLUSTERS, **_SENT}
_NAMES = tuple(_SCALARS)
_HIDDEN = "_"  # fairseq shows nothing that begins so


def moe_logging_output(reports: Sequence[MoeReport]) -> dict[str, Tensor]:
    """What the layers of a forward pass add to a logging output; it adds up over batches."""
    names = ",".join(f"{report.name}={report.label}" for report in reports)
    output = {f"{PREFIX}{names}": gather_sums(reports)}
    counts = {
        report.name: report.by_direction_LxE
        for report in reports
        if report.by_direction_LxE is not None
    }
    if counts:
        output[f"{DIRECTIONS_PREFIX}{','.join(counts)}"] = torch.stack(list(counts.values()))
    return output


def log_moe_metrics(key: str, sums_G: Tensor) -> None:
    """Log what each layer did, and the means over layers of the same sort (sums of bytes).

    Args:
        key, sums_G: of `moe_logging_output`, the sums added up over all processes.
    """
    layers = dict(part.split("=") for part in key.removeprefix(PREFIX).split(","))
    hidden = _HIDDEN + key
    metrics.log_scalar(hidden, moe_scalars(LayerSums.of(sums_G)))
    reading = _Reading(hidden)
    by_name: dict[str, list[int]] = {}
    for index, (layer, label) in enumerate(layers.items()):
        for name in _names_of(label):
            by_name.setdefault(name, []).append(index)
            read = partial(reading.mean, layers=[index], name=name)
            metrics.log_derived(f"moe_{layer}_{name}", read, priority=900)
    for name, indices in by_name.items():
        read = partial(reading.sum if name in _SENT else reading.mean, layers=indices, name=name)
        metrics.log_derived(f"moe_{name}", read, priority=600)


def moe_scalars(sums: LayerSums) -> Tensor:
    """The scalars of every layer by `_SCALARS`, (G, S); 0 where there is nothing to divide by."""
    loads_GE = sums["loads"]
    one_G = torch.ones_like(sums["tokens"])
    derived = {
        "load_max": loads_GE.amax(dim=1),
        "load_min": loads_GE.amin(dim=1),
        "load_mean": loads_GE.mean(dim=1),
        "one": one_G,
        "millisecond": one_G / 1000,
    }
    columns = {**sums.by_name, **derived}
    parts_GS, wholes_GS = (
        torch.stack([columns[names[side]] for names in _SCALARS.values()], dim=1) for side in (0, 1)
    )
    return torch.where(wholes_GS == 0, 0.0, parts_GS / wholes_GS)


def _names_of(label: str) -> Iterable[str]:
    if label == LayerKind.CLUSTER.value:
        return (*_OF_CLUSTERS, *_SENT)
    spared = OF_CHOICES if label.endswith(BY_EXPERTS) else ()
    return (*(name for name in _OF_MIXTURES if name not in spared), *_SENT)


class _Reading:
    """The averaged scalars on the host; copied there once for all that is read of them."""

    def __init__(self, hidden: str) -> None:
        self.hidden = hidden
        self._sum: Tensor | None = None
        self._scalars: list[list[float]] = []

    def mean(self, meters, *, layers: list[int], name: str) -> float:
        """Of one scalar over some layers, averaged over the interval."""
        return safe_round(self._total(meters, layers, name) / len(layers), 4)

    def sum(self, meters, *, layers: list[int], name: str) -> float:
        """Of one scalar over some layers, averaged over the interval."""
        return safe_round(self._total(meters, layers, name), 4)

    def _total(self, meters, layers: list[int], name: str) -> float:
        meter = meters[self.hidden]
        if not meter.count:
            return 0.0
        if meter.sum is not self._sum:  # which every update replaces
            self._sum, self._scalars = meter.sum, meter.avg.tolist()
        column = _NAMES.index(name)
        return sum(self._scalars[layer][column] for layer in layers)
