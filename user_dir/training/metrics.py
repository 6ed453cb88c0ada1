"""Scalars for the logs from the sums of the MoE layers."""

from fairseq.logging import metrics
from torch import Tensor

from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.report import LayerSums, MoeReport

# What a layer's sums are logged under: the kind, then the layer's name.
KINDS = ("moe:", "cluster:")


def metric_key(report: MoeReport) -> str:
    """The key of a layer's sums among the logging outputs."""
    kind = "cluster" if report.kind is LayerKind.CLUSTER else "moe"
    return f"{kind}:{report.name}"


def log_moe_metrics(sums_by_layer: dict[str, Tensor]) -> None:
    """Log what each layer did, and the means over layers of the same kind (sums of bytes).

    Shares are of the choices made (overflow), of the tokens (unrouted, reaches), of an even load
    (loads); the entropy is in nats a token, bytes are those of a forward pass on all ranks.
    """
    by_name: dict[str, list[float]] = {}
    for key, tensor in sums_by_layer.items():
        kind, layer = key.split(":")
        sums = LayerSums.of(tensor)
        scalars = cluster_scalars(sums) if kind == "cluster" else layer_scalars(sums)
        for name, value in {**scalars, **_sent(sums)}.items():
            metrics.log_scalar(f"moe_{layer}_{name}", value, priority=900, round=4)
            by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        total = sum(values) if name.startswith("bytes") else sum(values) / len(values)
        metrics.log_scalar(f"moe_{name}", total, priority=600, round=4)


def layer_scalars(sums: LayerSums) -> dict[str, float]:
    """The metrics of one mixture by name."""
    mean_load = sum(sums.loads) / len(sums.loads)
    return {
        "balance_loss": _share(sums.balance_loss, sums.balance_ranks),
        "overflow1": _share(sums.first_dropped, sums.tokens),
        "overflow2": _share(sums.second_dropped, sums.second_made),
        "unrouted": _share(sums.unrouted, sums.tokens),
        "load_max": _share(max(sums.loads), mean_load),
        "load_min": _share(min(sums.loads), mean_load),
        "entropy": _share(sums.entropy, sums.tokens),
        "tokens_local": _share(sums.tokens_local, sums.tokens),
        "tokens_node": _share(sums.tokens_node, sums.tokens),
        "tokens_global": _share(sums.tokens_global, sums.tokens),
    }


def cluster_scalars(sums: LayerSums) -> dict[str, float]:
    """The metrics of one clustering layer: sizes relative to an even one, time of the assignment.

    The time is that of all processes together, in milliseconds.
    """
    mean_size = sum(sums.loads) / len(sums.loads)
    return {
        "cluster_max": _share(max(sums.loads), mean_size),
        "cluster_min": _share(min(sums.loads), mean_size),
        "assignment_ms": 1000 * sums.assignment_seconds,
    }


def _sent(sums: LayerSums) -> dict[str, float]:
    return {
        "bytes_rank": sums.bytes_rank,
        "bytes_node": sums.bytes_node,
        "bytes_between": sums.bytes_between,
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
