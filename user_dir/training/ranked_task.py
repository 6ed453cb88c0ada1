"""A batch for every logical rank, for any of fairseq's translation tasks."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from fairseq.tasks import FairseqTask
from fairseq.utils import split_paths

from user_dir.errors import CorpusError, UserError
from user_dir.fast_moe.layout.processes import refuse_unconnected_processes
from user_dir.fast_moe.layout.topology import Topology
from user_dir.training.batches import (
    RankedDataset,
    RankedEpochBatchIterator,
    real_sentences,
    without_ranks,
)
from user_dir.training.cluster_tables import make_cluster_tables
from user_dir.training.corpus_files import FileDictionary, Side, check_split
from user_dir.training.data_folder import missing_split
from user_dir.training.directions import directions_of, directions_told_apart
from user_dir.training.in_step import StepwiseEnsemble, decode_everywhere, is_spread
from user_dir.training.pieces import pieces_of_data
from user_dir.training.whole_dataset import WholeDataset


class RankedBatchesTask(FairseqTask):
    """Shards training and validation batches by logical rank. Comes before fairseq's task."""

    _trains = False
    _topology: Topology | None = None
    lang_pairs: Sequence[str] = ()  # fairseq's, where there can be several
    directions: tuple[str, ...] = ()  # those that the layers' statistics tell apart

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._checked_splits: set[str] = set()

    @classmethod
    def load_dictionary(cls, filename):
        """fairseq's, of a file that is whole."""
        return FileDictionary.load(filename)

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """fairseq's, of files that are whole, those of later epochs included."""
        if split not in self._checked_splits:
            for folder, sides in self._files(split):
                check_split(Path(folder), split, sides, combine=combine)
            self._checked_splits.add(split)
        try:
            super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        except FileNotFoundError:
            folders = [folder for folder, _ in self._files(split)]
            raise CorpusError(missing_split(folders, split)) from None

    def _files(self, split) -> Iterable[tuple[str, tuple[Side, Side]]]:
        """(Folder, its languages) of every pair that a split is made of."""
        raise NotImplementedError

    def build_model(self, cfg, from_checkpoint=False):
        """fairseq's; the batches are those of the model's logical ranks."""
        model = super().build_model(cfg, from_checkpoint)
        parts = getattr(model, "moe_parts", None)  # no other model of fairseq has any
        self._topology = None if parts is None else parts.topology
        self._model = model
        return model

    def optimizer_step(self, optimizer, model, update_num):
        """fairseq's; then what layers learn without a gradient moves as well."""
        super().optimizer_step(optimizer, model, update_num)
        if self._topology is not None:
            model.end_update()

    def build_criterion(self, cfg, **kwargs):
        refuse_unconnected_processes()
        # Only training and validation have a criterion; generation shards by process.
        self._trains = True
        # By fairseq's iterator: fairseq forgets that with the epoch's share of a sharded corpus.
        self._ranked: WeakKeyDictionary = WeakKeyDictionary()
        if self._topology is not None:
            self._refuse_options()
        criterion = super().build_criterion(cfg, **kwargs)
        if self._topology is not None and getattr(criterion, "statistics_interval", 0) > 0:
            self.directions = directions_told_apart(self.lang_pairs, self._model)
            self._model.tell_directions_apart(len(self.directions))
        return criterion

    @property
    def _options(self):
        """fairseq's options of the task."""
        raise NotImplementedError

    def _refuse_options(self) -> None:
        """Refuse what would be loaded with the sentences and then dropped, or cannot be loaded."""
        if self._options.load_alignments:
            raise UserError(
                "--load-alignments does not work with MoE layers: moe_cross_entropy learns nothing "
                "from alignments, and the criterion that does has no balance loss; leave it out"
            )

    def filter_indices_by_size(self, indices, dataset, *args, **kwargs):
        """fairseq's; training and validation need at least one sentence."""
        kept = super().filter_indices_by_size(indices, dataset, *args, **kwargs)
        if self._trains and not len(kept):
            raise CorpusError(
                f"none of the {len(indices)} sentence pairs can be used to train or validate on; "
                "if there are any, a larger --max-tokens, --max-source-positions or "
                "--max-target-positions would do"
            )
        return kept

    def get_batch_iterator(
        self,
        dataset,
        *args,
        num_shards: int = 1,
        shard_id: int = 0,
        skip_remainder_batch: bool = False,
        grouped_shuffling: bool = False,
        **kwargs,
    ):
        """fairseq's epoch iterator over every sentence; to train or validate, one by ranks.

        Batches that serve all epochs are those of a run that began with the first one: fairseq
        would draw others where a run is resumed.
        """
        if self._serve_all_epochs(dataset, **kwargs):
            kwargs["epoch"] = 1
        topology = self._topology if self._trains else None
        whole = WholeDataset(dataset)
        if topology is None:
            return super().get_batch_iterator(
                whole,
                *args,
                num_shards=num_shards,
                shard_id=shard_id,
                skip_remainder_batch=skip_remainder_batch,
                grouped_shuffling=grouped_shuffling,
                **kwargs,
            )
        if dataset is self.datasets.get("train"):
            make_cluster_tables(self._model, dataset)
        stock = super().get_batch_iterator(whole, *args, num_shards=topology.num_ranks, **kwargs)
        if stock not in self._ranked:
            self._ranked[stock] = RankedEpochBatchIterator(
                stock,
                RankedDataset(
                    whole,
                    pad_idx=self.source_dictionary.pad(),
                    eos_idx=self.source_dictionary.eos(),
                    left_pad_source=self._options.left_pad_source,
                    left_pad_target=self._options.left_pad_target,
                    num_hosted=topology.num_hosted,
                    directions=directions_of(dataset, self.directions),
                ),
                ranks=topology.hosted_ranks,
                num_ranks=topology.num_ranks,
                grouped_shuffling=not self._options.no_grouped_shuffling,
                skip_remainder_batch=skip_remainder_batch,
            )
        return self._ranked[stock]

    def build_bpe(self, args):
        """fairseq's; where none is named, what joins the pieces of text that came in pieces."""
        return super().build_bpe(args) or pieces_of_data(split_paths(self._options.data)[0])

    def _serve_all_epochs(
        self, dataset, *, disable_iterator_cache=False, update_epoch_batch_itr=False, **_
    ) -> bool:
        is_drawn_anew = disable_iterator_cache or update_epoch_batch_itr
        return not is_drawn_anew and self._keeps_iterator(dataset)

    def _keeps_iterator(self, dataset) -> bool:
        """Whether fairseq makes one iterator over a dataset and never another."""
        return self.can_reuse_epoch_itr(dataset)

    def build_generator(self, models, args, **kwargs):
        """fairseq's generator; in step where the experts are spread over processes."""
        if is_spread(models[0]):
            models = StepwiseEnsemble(models)
        return super().build_generator(models, args, **kwargs)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Translate the real sentences of a batch, each on the rank of its own tokens.

        Args:
            prefix_tokens, constraints: fairseq's, a row for each sentence of the sample.
        """
        keep = real_sentences(sample)
        rows = {
            "prefix_tokens": None if prefix_tokens is None else prefix_tokens[keep],
            "constraints": None if constraints is None else constraints[keep],
        }
        sample = without_ranks(sample)
        step = partial(super().inference_step, generator, models)
        if not is_spread(models[0]):
            return step(sample, **rows)
        with torch.no_grad():
            return decode_everywhere(
                sample,
                generator.model,
                pad_idx=self.source_dictionary.pad(),
                generate=step,
                **rows,
            )
