"""Metrics that tell whether clusters mean anything, from counts of kinds of tokens by cluster."""

from collections.abc import Sequence
from functools import partial

from fairseq.logging import metrics
from fairseq.logging.meters import safe_round
from torch import Tensor

from user_dir.fast_moe.clustering.meaning import KINDS, mutual_information, share_moved
from user_dir.fast_moe.report import MoeReport

PREFIX = "moe_kinds:"
_HIDDEN = "_"  # fairseq shows nothing that begins so


def cluster_logging_output(reports: Sequence[MoeReport]) -> dict[str, Tensor]:
    """What the clustering layers of a forward pass add to a logging output."""
    return {
        f"{PREFIX}{report.name}": report.kinds_KG
        for report in reports
        if report.kinds_KG is not None
    }


def log_cluster_metrics(totals: dict[str, Tensor]) -> None:
    """Log, of each clustering layer and as means over them, what `KINDS` says and what moved.

    Args:
        totals: logging outputs, added up over all processes.
    """
    readings = []
    for key in sorted(key for key in totals if key.startswith(PREFIX)):
        metrics.log_scalar(_HIDDEN + key, totals[key])
        readings.append(_Reading(_HIDDEN + key))
        layer = key.removeprefix(PREFIX)
        for name in _NAMES:
            read = partial(_mean, readings=[readings[-1]], name=name)
            metrics.log_derived(f"moe_{layer}_{name}", read, priority=900)
    for name in _NAMES if readings else ():
        read = partial(_mean, readings=readings, name=name)
        metrics.log_derived(f"moe_{name}", read, priority=600)


def _mean(meters, *, readings: "list[_Reading]", name: str) -> float:
    values = [reading.of(meters)[name] for reading in readings]
    return safe_round(sum(values) / len(values), 4)


_BITS = {f"cluster_{of}_bits": of for of in KINDS}
_MOVED = "cluster_moved"
_NAMES = (*_BITS, _MOVED)


class _Reading:
    """What the counts of an interval say; computed once for all that is read of them."""

    def __init__(self, hidden: str) -> None:
        self.hidden = hidden
        self._sum: Tensor | None = None
        self._before: Tensor | None = None
        self._values = dict.fromkeys(_NAMES, 0.0)

    def of(self, meters) -> dict[str, float]:
        """All values, of a meter that fairseq replaces at every update."""
        counts = meters[self.hidden].sum
        if isinstance(counts, Tensor) and counts is not self._sum:
            self._before, self._sum = self._sum, counts
            counts = counts.cpu()
            self._values = {name: mutual_information(counts, of) for name, of in _BITS.items()}
            before = counts if self._before is None else self._before.cpu()
            self._values[_MOVED] = share_moved(before, counts)
        return self._values
