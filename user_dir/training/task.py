"""fairseq's two translation tasks, with a batch for every logical rank."""

from argparse import Namespace
from dataclasses import dataclass

import numpy as np
from fairseq.data import ConcatDataset
from fairseq.tasks import register_task
from fairseq.tasks.translation import EVAL_BLEU_ORDER, TranslationConfig, TranslationTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask
from fairseq.utils import split_paths

from user_dir.errors import UserError
from user_dir.training.batches import without_ranks
from user_dir.training.corpus_files import Side
from user_dir.training.data_folder import check_data_folder, check_languages
from user_dir.training.declared import TASKS, UNGROUPED
from user_dir.training.language_tokens import PairTokenManager, add_pair_tokens
from user_dir.training.ranked_task import RankedBatchesTask


@dataclass
class ScomoeTranslationConfig(TranslationConfig):
    """fairseq's options of `translation`."""

    no_grouped_shuffling: bool = UNGROUPED.field()


@register_task("scomoe_translation", dataclass=ScomoeTranslationConfig)
class ScomoeTranslationTask(RankedBatchesTask, TranslationTask):
    """fairseq's `translation` with batches sharded by logical rank."""

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """fairseq's, of a folder that has the languages."""
        # Further folders are read in later epochs, and by training alone.
        folder = check_data_folder(split_paths(cfg.data)[0])
        check_languages(folder, source=cfg.source_lang, target=cfg.target_lang)
        return super().setup_task(cfg, **kwargs)

    @property
    def _options(self):
        return self.cfg

    def _files(self, split):
        folders = split_paths(self.cfg.data)
        sides = Side(self.cfg.source_lang, self.src_dict), Side(self.cfg.target_lang, self.tgt_dict)
        for folder in folders if split == self.cfg.train_subset else folders[:1]:
            yield folder, sides

    def _refuse_options(self) -> None:
        super()._refuse_options()
        if self.cfg.num_batch_buckets > 0 and not hasattr(np, "compat"):
            raise UserError(
                f"--num-batch-buckets {self.cfg.num_batch_buckets} does not work with numpy "
                f"{np.__version__}: fairseq's buckets need numpy 1; leave it out"
            )

    def _inference_with_bleu(self, generator, sample, model):
        """BLEU's counts of the real sentences; a process may have none of them."""
        sample = without_ranks(sample)
        if len(sample["id"]):
            return super()._inference_with_bleu(generator, sample, model)
        self.inference_step(generator, [model], sample, prefix_tokens=None)
        order = range(EVAL_BLEU_ORDER)
        return Namespace(sys_len=0, ref_len=0, counts=[0 for _ in order], totals=[0 for _ in order])


@register_task("scomoe_multilingual_translation")
class ScomoeMultilingualTranslationTask(RankedBatchesTask, TranslationMultiSimpleEpochTask):
    """fairseq's `translation_multi_simple_epoch` with batches sharded by logical rank."""

    @staticmethod
    def add_args(parser):
        TranslationMultiSimpleEpochTask.add_args(parser)
        for option in TASKS:
            option.add_to(parser)

    @classmethod
    def setup_task(cls, args, **kwargs):
        """fairseq's, told to prepend a token where ours is asked for."""
        check_data_folder(split_paths(args.data)[0])
        if args.encoder_lang_pair_token:
            args.encoder_langtok = "src"
        return super().setup_task(args, **kwargs)

    def __init__(self, args, langs, dicts, training):
        super().__init__(args, langs, dicts, training)
        if args.encoder_lang_pair_token:
            add_pair_tokens(dicts.values(), args.lang_pairs)
            self.data_manager = PairTokenManager(
                args, self.lang_pairs, langs, dicts, self.sampling_method
            )

    def _keeps_iterator(self, dataset) -> bool:
        return self.args.sampling_method == "RoundRobin" or super()._keeps_iterator(dataset)

    @property
    def _options(self):
        return self.args

    def _files(self, split):
        data = self.data_manager
        folders, directions = data.get_data_paths_and_lang_pairs(split)
        is_training = split == self.args.train_subset
        for kind in folders.keys() & directions.keys():
            # Both directions of a pair are in the same files.
            pairs = {frozenset(one.split("-")): one for one in directions[kind]}
            for direction in pairs.values():
                source, target = (direction.split("-") * 2)[:2]
                sides = (
                    Side(source, data.get_source_dictionary(source)),
                    Side(target, data.get_target_dictionary(target)),
                )
                for folder in split_paths(folders[kind])[: None if is_training else 1]:
                    yield folder, sides

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """fairseq's; parts that follow each other say which directions they hold, as others do."""
        super().load_dataset(split, epoch, combine, **kwargs)
        dataset = self.datasets[split]
        if isinstance(dataset, ConcatDataset):
            parts = self.data_manager.get_split_data_param_list(split, epoch)
            dataset.keys = [part["key"] for part in parts]

    def _refuse_options(self) -> None:
        super()._refuse_options()
        if self.args.enable_lang_ids:
            raise UserError(
                "--enable-lang-ids does not work with MoE layers: no layer reads the ids; leave it "
                "out, and use --encoder-langtok, --decoder-langtok or --encoder-lang-pair-token"
            )
