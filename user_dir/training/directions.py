"""The translation directions that statistics tell apart, and how batches say which they hold."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.data import ConcatDataset
from torch import nn

from user_dir.fast_moe.clustering.layer import ClusteringLayer
from user_dir.fast_moe.moe import EfficientMoeLayer

# Counts by direction, layer and expert of an update, at most: what travels and is written down.
_MOST_COUNTS = 2**14
OTHER = "other"


@dataclass(frozen=True)
class Directions:
    """Which direction each part of a dataset holds."""

    number: int  # of directions that are told apart
    of_parts: tuple[int, ...]  # by the part's index
    ends: tuple[int, ...] | None  # where parts end that follow each other; None: items say theirs

    def mark(self, index: int, item: Any) -> Any:
        """Write a sentence's direction into its id, which is all that collating keeps of it."""
        if self.ends is not None:
            return self._marked(bisect_right(self.ends, index), item)
        part, sentence = item
        return part, self._marked(part, sentence)

    def _marked(self, part: int, sentence: dict) -> dict:
        return {**sentence, "id": sentence["id"] * self.number + self.of_parts[part]}

    def unmark(self, batch: dict) -> dict:
        """Take the directions out of the ids of a collated batch."""
        marked = batch["id"]
        return {**batch, "id": marked // self.number, "directions": marked % self.number}


def mixtures(model: nn.Module) -> list[EfficientMoeLayer | ClusteringLayer]:
    """The MoE layers of a model, those of the encoder first."""
    kinds = (EfficientMoeLayer, ClusteringLayer)
    return [layer for layer in model.modules() if isinstance(layer, kinds)]


def directions_told_apart(lang_pairs: Sequence[str], model: nn.Module) -> tuple[str, ...]:
    """Names of directions: all of a corpus, or the first ones and `OTHER`; () of a single one."""
    experts = [layer.topology.num_experts for layer in mixtures(model)]
    names = tuple(dict.fromkeys(lang_pairs))
    most = _MOST_COUNTS // sum(experts) if experts else 0
    if len(names) > most:
        names = (*names[: most - 1], OTHER) if most > 1 else ()
    return names if len(names) > 1 else ()


def directions_of(dataset, names: Sequence[str]) -> Directions | None:
    """Those of a multilingual dataset's parts, which its `keys` name; None where nobody asks."""
    if not names:
        return None
    numbers = {name: number for number, name in enumerate(names)}
    parts = [str(key).rpartition(":")[2] for key in dataset.keys]  # "main:en-de"
    if OTHER not in numbers and not numbers.keys() >= set(parts):
        return None
    of_parts = tuple(numbers.get(part, numbers.get(OTHER, 0)) for part in parts)
    ends = tuple(dataset.cumulative_sizes) if isinstance(dataset, ConcatDataset) else None
    return Directions(len(names), of_parts, ends)
