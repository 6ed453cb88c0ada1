"""Scalars for the logs from the sums of the MoE layers. Level 5."""

from fairseq.logging import metrics
from torch import Tensor

from user_dir.fast_moe.statistics import LayerSums


def log_moe_metrics(sums_by_layer: dict[str, Tensor]) -> None:
    """Log, for each layer, overflow by choice, loads, entropy; and their means over layers.

    Shares are of the choices made (overflow), of the tokens (unrouted), of an even load (loads);
    the entropy is in nats a token.
    """
    by_name: dict[str, list[float]] = {}
    for layer, tensor in sums_by_layer.items():
        for name, value in layer_scalars(LayerSums.of(tensor)).items():
            metrics.log_scalar(f"moe_{layer}_{name}", value, priority=900, round=4)
            by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        metrics.log_scalar(f"moe_{name}", sum(values) / len(values), priority=600, round=4)


def layer_scalars(sums: LayerSums) -> dict[str, float]:
    """The metrics of one layer by name."""
    mean_load = sum(sums.loads) / len(sums.loads)
    return {
        "balance_loss": _share(sums.balance_loss, sums.balance_ranks),
        "overflow1": _share(sums.first_dropped, sums.tokens),
        "overflow2": _share(sums.second_dropped, sums.second_made),
        "unrouted": _share(sums.unrouted, sums.tokens),
        "load_max": _share(max(sums.loads), mean_load),
        "load_min": _share(min(sums.loads), mean_load),
        "entropy": _share(sums.entropy, sums.tokens),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
