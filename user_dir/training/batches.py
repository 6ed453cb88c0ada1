"""A batch for every logical rank: sharding, joining, ranks without data.

Batches are sharded by logical rank, never by process, so that what a rank is given does not
depend on how many processes host the ranks.
"""

import itertools

import numpy as np
import torch
from fairseq.data import data_utils
from fairseq.data.iterators import EpochBatchIterator
from torch import Tensor
from torch.utils.data import Dataset

from user_dir.errors import UserError
from user_dir.training.directions import Directions

# What a batch for ranks is made of; a dataset that adds to it would see that dropped.
_PARTS = {"id", "nsentences", "ntokens", "net_input", "target", "directions"}
_INPUTS = {"src_tokens", "src_lengths", "prev_output_tokens"}
# What joining adds, and stock models do not take.
_OF_RANKS = {"sentence_ranks", "sentence_directions"}


class RankedDataset(Dataset):
    """A fairseq dataset whose items are asked for, and given, with the rank they are for.

    Args:
        left_pad_source, left_pad_target: how the dataset pads; wrappers of fairseq's do not say.
        directions: of the dataset's parts, to be handed to the model; None: nobody counts them.
    """

    def __init__(
        self,
        dataset,
        *,
        pad_idx: int,
        eos_idx: int,
        left_pad_source: bool,
        left_pad_target: bool,
        num_hosted: int,
        directions: Directions | None = None,
    ):
        self.dataset = dataset
        self.directions = directions
        self.pad_idx, self.eos_idx, self.num_hosted = pad_idx, eos_idx, num_hosted
        self.left_pad_source, self.left_pad_target = left_pad_source, left_pad_target

    def __getitem__(self, key: tuple[int, int]):
        hosted_rank, index = key
        item = self.dataset[index]
        return hosted_rank, item if self.directions is None else self.directions.mark(index, item)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        if name == "dataset":  # not there yet while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def collater(self, samples: list) -> dict:
        """Collate every rank's batch by itself, then join them."""
        items: list[list] = [[] for _ in range(self.num_hosted)]
        for hosted, item in samples:
            items[hosted].append(item)
        # Not every collater of fairseq's takes an empty list.
        batches = [self.dataset.collater(of_rank) if of_rank else {} for of_rank in items]
        if self.directions is not None:
            batches = [batch and self.directions.unmark(batch) for batch in batches]
        return join_batches(
            batches,
            pad_idx=self.pad_idx,
            eos_idx=self.eos_idx,
            left_pad_source=self.left_pad_source,
            left_pad_target=self.left_pad_target,
            has_directions=self.directions is not None,
        )


def join_batches(
    batches: list[dict],
    *,
    pad_idx: int,
    eos_idx: int,
    left_pad_source: bool = True,
    left_pad_target: bool = False,
    has_directions: bool = False,
) -> dict:
    """One batch from a fairseq batch for each hosted rank; an empty one stands for no data.

    ``net_input["sentence_ranks"]`` says whose each sentence is. A rank without data gets one
    `[eos]` source and a target with nothing to score, whose rank is -1: it takes part in every
    exchange with no tokens, and counts nowhere. ``net_input["sentence_directions"]`` is joined
    from ``batch["directions"]`` where the batches have directions.

    Raises:
        UserError: a batch holds something else than tokens, or lacks a target.
    """
    for batch in filter(None, batches):
        _check_parts(batch)
    filled = [b if b else _without_tokens(pad_idx, eos_idx) for b in batches]
    sizes = [len(batch["id"]) for batch in filled]
    ranks = [rank if batch else -1 for rank, batch in enumerate(batches)]

    def join(key: str, left_pad: bool) -> Tensor:
        tensors = [_lookup(batch, key) for batch in filled]
        width = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([_pad(tensor, width, pad_idx, left_pad) for tensor in tensors])

    joined = {
        "id": torch.cat([batch["id"] for batch in filled]),
        "nsentences": sum(batch["nsentences"] for batch in filled),
        "ntokens": sum(batch["ntokens"] for batch in filled),
        "net_input": {
            "src_tokens": join("src_tokens", left_pad_source),
            "src_lengths": torch.cat([_lookup(batch, "src_lengths") for batch in filled]),
            "prev_output_tokens": join("prev_output_tokens", left_pad_target),
            "sentence_ranks": torch.tensor(ranks).repeat_interleave(torch.tensor(sizes)),
        },
        "target": join("target", left_pad_target),
    }
    if has_directions:
        nowhere = torch.tensor([0])
        joined["net_input"]["sentence_directions"] = torch.cat(
            [batch.get("directions", nowhere) for batch in filled]
        )
    return joined


def real_sentences(sample: dict) -> Tensor:
    """(B,) which sentences of a batch are real; in a stock task's batch all are."""
    net_input = sample["net_input"]
    ranks = net_input.get("sentence_ranks")
    return (
        torch.ones_like(net_input["src_lengths"], dtype=torch.bool) if ranks is None else ranks >= 0
    )


def without_ranks(sample: dict) -> dict:
    """The real sentences of a joined batch, as a stock task would have made it."""
    if "sentence_ranks" not in sample["net_input"]:
        return sample
    keep = real_sentences(sample)
    net_input = {
        key: value[keep] for key, value in sample["net_input"].items() if key not in _OF_RANKS
    }
    return {
        **sample,
        "id": sample["id"][keep],
        "net_input": net_input,
        "target": sample["target"][keep],
    }


def _check_parts(batch: dict) -> None:
    net_input = batch["net_input"]
    others = sorted((batch.keys() - _PARTS) | (net_input.keys() - _INPUTS))
    if others:
        raise UserError(
            f"the data's batches hold {', '.join(others)}, which no MoE model reads; leave out the "
            "option of --task that adds it"
        )
    if batch["target"] is None or _INPUTS - net_input.keys():
        raise UserError("the data has no target side to train or validate on; binarise both sides")


def _without_tokens(pad_idx: int, eos_idx: int) -> dict:
    eos = torch.tensor([[eos_idx]])
    return {
        "id": torch.tensor([-1]),
        "nsentences": 0,
        "ntokens": 0,
        "net_input": {
            "src_tokens": eos,
            "src_lengths": torch.tensor([1]),
            "prev_output_tokens": eos,
        },
        "target": torch.tensor([[pad_idx]]),
    }


def _lookup(batch: dict, key: str) -> Tensor:
    return batch[key] if key in batch else batch["net_input"][key]


def _pad(tokens: Tensor, width: int, pad_idx: int, left_pad: bool) -> Tensor:
    missing = width - tokens.shape[1]
    sides = (missing, 0) if left_pad else (0, missing)
    return torch.nn.functional.pad(tokens, sides, value=pad_idx)


class RankedEpochBatchIterator(EpochBatchIterator):
    """fairseq's epoch iterator over R shards, giving at each step the batches of several ranks.

    Args:
        stock: the iterator that the task made for the dataset.
        dataset: the same dataset, ranked.
        ranks: the logical ranks of this process, out of ``num_ranks``.
    """

    def __init__(
        self,
        stock: EpochBatchIterator,
        dataset: RankedDataset,
        *,
        ranks: range,
        num_ranks: int,
        grouped_shuffling: bool,
        skip_remainder_batch: bool,
    ):
        sampler = stock.batch_sampler
        if callable(sampler):  # drawn anew each epoch from the task's own dataset
            sample = sampler

            def sampler(ranked, epoch):
                return sample(ranked.dataset, epoch)

        super().__init__(
            dataset=dataset,
            collate_fn=dataset.collater,
            batch_sampler=sampler,
            seed=stock.seed,
            num_shards=num_ranks,
            shard_id=ranks.start,
            num_workers=stock.num_workers,
            epoch=stock.epoch,
            buffer_size=stock.buffer_size,
            timeout=stock.timeout,
            disable_shuffling=stock.disable_shuffling,
            skip_remainder_batch=skip_remainder_batch,
            grouped_shuffling=grouped_shuffling,
            reuse_dataloader=stock.reuse_dataloader,
            persistent_workers=stock.persistent_workers,
        )
        self.ranks = ranks

    @property
    def first_batch(self) -> dict:
        """fairseq's dummy batch; it tells early that a dataset is empty or cannot be joined."""
        if not self.frozen_batches:
            return super().first_batch  # raises fairseq's sentence
        return self.collate_fn([self.dataset[(0, index)] for index in self.frozen_batches[0]])

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list:
        """For every step the (hosted rank, index) pairs of this process.

        Grouped batches stay with their rank in every epoch, so there is nothing to fix.

        Raises:
            UserError: batches that are shuffled one by one were to be fixed to ranks.
        """
        if fix_batches_to_gpus and shuffle and not self.grouped_shuffling:
            raise UserError(
                "--fix-batches-to-gpus does not work with --no-grouped-shuffling: fairseq forgets "
                "it where an epoch is resumed, which would then go on in another order; leave "
                "--no-grouped-shuffling out, and batches stay with their rank"
            )
        batches = list(self.frozen_batches)
        if shuffle:
            batches = self._shuffle(batches, self.seed + epoch)
        steps = [
            batches[first : first + self.num_shards]
            for first in range(0, len(batches), self.num_shards)
        ]
        mine = [
            [
                (hosted, int(index))
                for hosted, batch in enumerate(step[self.ranks.start : self.ranks.stop])
                for index in batch
            ]
            for step in steps
        ]
        if getattr(self.dataset, "supports_prefetch", False):
            self.dataset.dataset.prefetch([index for step in mine for _, index in step])
        return mine

    def _shuffle(self, batches: list, seed: int) -> list:
        with data_utils.numpy_seed(seed):
            if not self.grouped_shuffling:
                np.random.shuffle(batches)
                return batches
            # Batches are ordered by length: neighbours go to the ranks together, so that none
            # waits for a longer one. The incomplete group, which fairseq would lose, comes last.
            num_full = len(batches) // self.num_shards * self.num_shards
            groups = [
                batches[first : first + self.num_shards]
                for first in range(0, num_full, self.num_shards)
            ]
            np.random.shuffle(groups)
            return [*itertools.chain(*groups), *batches[num_full:]]
