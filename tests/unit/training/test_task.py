"""Every rank gets the batches that fairseq would give to a process of that number."""

import gc
import weakref

import numpy as np
import pytest
import torch
from fairseq.data.iterators import EpochBatchIterator

from tests.support.models import DICTIONARY
from tests.support.tasks import TRANSLATION, make_trained_task, multilingual
from user_dir.errors import CorpusError, UserError
from user_dir.training.batches import join_batches, real_sentences

NUM_RANKS = 4
PADDING = {"pad_idx": DICTIONARY.pad(), "eos_idx": DICTIONARY.eos()}
DATASETS = {
    "translation": (),
    "translation, truncated": ("--truncate-source", "--max-source-positions", "8"),
    "translation, widths of 8": ("--required-seq-len-multiple", "8"),
}
MULTILINGUAL_DATASETS = {
    "concatenated": (),
    "right padding": ("--left-pad-source", "False"),
    "target's token, padded on the right": (
        *("--encoder-langtok", "tgt", "--left-pad-source", "False"),
    ),
    "tokens on both sides": ("--encoder-langtok", "src", "--decoder-langtok"),
    "tokens by data": ("--langtoks", '{"main": ("src", "tgt")}'),
    "tokens instead of eos": (
        *("--encoder-langtok", "src", "--decoder-langtok", "--lang-tok-replacing-bos-eos"),
    ),
    "token of the pair": ("--encoder-lang-pair-token",),
    "uniform sampling": ("--sampling-method", "uniform"),
    "sampling by temperature": ("--sampling-method", "temperature"),
    "round robin": ("--sampling-method", "RoundRobin"),
    "virtual epochs": (
        *("--sampling-method", "temperature"),
        *("--virtual-epoch-size", "100", "--virtual-data-size", "400"),
    ),
    "shared by directions": ("--enable-reservsed-directions-shared-datasets",),
}


def iterator_of(task, split: str = "train", **options):
    task.load_dataset(split, epoch=1)
    options = {"max_tokens": 52, "max_positions": task.max_positions(), "seed": 3, **options}
    return task.get_batch_iterator(task.dataset(split), ignore_invalid_inputs=True, **options)


def rows(tokens_BS: torch.Tensor, *, left_pad: bool) -> list[list[int]]:
    """Without padding, which must lie on one side."""
    pad = DICTIONARY.pad()
    for row in tokens_BS.tolist():
        real = [token for token in row if token != pad]
        padding = [pad] * (len(row) - len(real))
        assert row == (padding + real if left_pad else real + padding)
    return [[token for token in row if token != pad] for row in tokens_BS.tolist()]


def check_against_stock(task, split: str, *, left_pad_source: bool = True) -> None:
    """Unshuffled, rank by rank; the epoch's end, where ranks run out of batches, included."""
    ours = iterator_of(task, split, max_tokens=None, max_sentences=2)
    dataset = ours.dataset.dataset
    left = {"src_tokens": left_pad_source, "prev_output_tokens": False}
    stock = [
        EpochBatchIterator(
            dataset, dataset.collater, ours.frozen_batches, num_shards=NUM_RANKS, shard_id=rank
        ).next_epoch_itr(shuffle=False)
        for rank in range(NUM_RANKS)
    ]
    steps = list(zip(ours.next_epoch_itr(shuffle=False), *stock, strict=True))
    assert len(steps) > 2
    runs_out = len(ours.frozen_batches) % NUM_RANKS > 0
    assert (steps[-1][0]["net_input"]["sentence_ranks"].tolist()[-1] == -1) == runs_out
    for joined, *of_ranks in steps:
        ranks_B = joined["net_input"]["sentence_ranks"]
        assert joined["ntokens"] == sum(batch["ntokens"] for batch in of_ranks if batch)
        for rank, batch in enumerate(of_ranks):
            mine = ranks_B == rank
            assert bool(batch) == bool(mine.any())
            if not batch:
                continue
            assert joined["id"][mine].tolist() == batch["id"].tolist()
            for key, left_pad in left.items():
                given = rows(joined["net_input"][key], left_pad=left_pad)
                given = [row for row, is_mine in zip(given, mine.tolist(), strict=True) if is_mine]
                assert given == rows(batch["net_input"][key], left_pad=left_pad)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_ranks_get_fairseqs_batches(small_corpus, name, split):
    task = make_trained_task(small_corpus, *TRANSLATION, *DATASETS[name])
    check_against_stock(task, split)


@pytest.mark.parametrize("name", MULTILINGUAL_DATASETS)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_ranks_get_fairseqs_multilingual_batches(small_corpus, name, split):
    options = MULTILINGUAL_DATASETS[name]
    task = make_trained_task(small_corpus, *multilingual(small_corpus), *options)
    check_against_stock(task, split, left_pad_source="--left-pad-source" not in options)


def test_alignments_are_refused_before_training(small_corpus):
    for arguments in (TRANSLATION, multilingual(small_corpus)):
        with pytest.raises(UserError, match="--load-alignments"):
            make_trained_task(small_corpus, *arguments, "--load-alignments")


def test_ids_of_languages_are_refused_before_training(small_corpus):
    with pytest.raises(UserError, match="--enable-lang-ids"):
        make_trained_task(small_corpus, *multilingual(small_corpus), "--enable-lang-ids")


@pytest.mark.skipif(hasattr(np, "compat"), reason="fairseq's buckets work with numpy 1")
def test_buckets_are_refused_where_fairseq_cannot_make_them(small_corpus):
    with pytest.raises(UserError, match="--num-batch-buckets 4 does not work with numpy"):
        make_trained_task(small_corpus, *TRANSLATION, "--num-batch-buckets", "4")


@pytest.mark.parametrize(("where", "key"), [("batch", "alignments"), ("net_input", "src_lang_id")])
def test_what_a_joined_batch_cannot_hold_is_named(where, key):
    batch = batch_of_one_sentence()
    join_batches([batch, {}], **PADDING)
    (batch if where == "batch" else batch[where])[key] = torch.zeros(1, 1)
    with pytest.raises(UserError, match=key):
        join_batches([batch, {}], **PADDING)


def test_data_without_a_target_is_refused():
    batch = {**batch_of_one_sentence(), "target": None}
    with pytest.raises(UserError, match="no target side"):
        join_batches([batch, {}], **PADDING)


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_a_dataset_of_which_nothing_is_left_is_named(small_corpus, split, multiple):
    for arguments in (TRANSLATION, multilingual(small_corpus)):
        task = make_trained_task(small_corpus, *arguments)
        with pytest.raises(CorpusError, match=r"none of the \d+ sentence pairs can be used"):
            assert iterator_of(
                task, split, max_positions=(1, 1), required_batch_size_multiple=multiple
            ).first_batch


@pytest.mark.parametrize("multiple", [1, 8, 1000])
def test_every_sentence_is_in_a_batch(small_corpus, multiple):
    options = {"required_batch_size_multiple": multiple}
    for arguments in (TRANSLATION, multilingual(small_corpus)):
        task = make_trained_task(small_corpus, *arguments)
        for split in ("train", "valid"):
            iterator = iterator_of(task, split, **options)
            batched = np.concatenate(iterator.frozen_batches)
            assert sorted(batched) == list(range(len(task.dataset(split))))
            again = task.get_batch_iterator(task.dataset(split), max_tokens=52, seed=3, **options)
            assert (again is iterator) == (arguments is TRANSLATION)  # fairseq's cache still works
        assert max(map(len, iterator.frozen_batches)) > 1


def batch_of_one_sentence() -> dict:
    tokens = torch.tensor([[DICTIONARY.eos()]])
    net_input = {"src_tokens": tokens, "src_lengths": tokens[0], "prev_output_tokens": tokens}
    return {
        **{"id": tokens[0], "nsentences": 1, "ntokens": 1},
        **{"net_input": net_input, "target": tokens},
    }


def epochs_of(iterator, count: int, **options) -> list[list[dict]]:
    """For each epoch the ids of each rank's batches, in order."""
    epochs = []
    for _ in range(count):
        steps = list(iterator.next_epoch_itr(**options))
        epochs.append(
            [
                [step["id"][step["net_input"]["sentence_ranks"] == rank].tolist() for step in steps]
                for rank in range(NUM_RANKS)
            ]
        )
    return epochs


def test_batches_stay_with_their_rank_in_every_epoch(small_corpus):
    task = make_trained_task(small_corpus, *TRANSLATION)
    first, second = epochs_of(iterator_of(task), 2, fix_batches_to_gpus=True)
    for one, other in zip(first, second, strict=True):
        assert one != other
        assert sorted(one) == sorted(other)


def test_ungrouped_batches_cannot_be_fixed_to_ranks(small_corpus):
    task = make_trained_task(small_corpus, *TRANSLATION, "--no-grouped-shuffling")
    iterator = iterator_of(task)
    with pytest.raises(UserError, match="--fix-batches-to-gpus"):
        iterator.next_epoch_itr(fix_batches_to_gpus=True)
    assert epochs_of(iterator, 1)


@pytest.mark.parametrize("kind", ["translation", "multilingual", "virtual epochs"])
def test_an_epochs_share_of_a_corpus_is_let_go_of(small_corpus, kind):
    arguments = TRANSLATION if kind == "translation" else multilingual(small_corpus)
    if kind == "virtual epochs":
        arguments = (*arguments, "--virtual-epoch-size", "600", "--virtual-data-size", "600")
    data = str(small_corpus / "bin")
    task = make_trained_task(small_corpus, *arguments, data=f"{data}:{data}")
    seen = []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        dataset = task.dataset("train")
        iterator = task.get_batch_iterator(
            dataset,
            max_tokens=52,
            epoch=epoch,
            disable_iterator_cache=task.has_sharded_data("train"),
        )
        assert iterator.first_batch["nsentences"] > 0
        assert next(iter(iterator.next_epoch_itr()))["nsentences"] > 0
        seen.append(weakref.ref(dataset))
        del dataset, iterator
        gc.collect()
    alive = [one() for one in seen if one() is not None]
    assert {id(one) for one in alive} == {id(task.dataset("train"))}
    assert seen[0]() is None


def test_validation_keeps_its_iterator(small_corpus):
    task = make_trained_task(small_corpus, *TRANSLATION)
    assert iterator_of(task, "valid") is task.get_batch_iterator(task.dataset("valid"))


def test_sentences_of_ranks_without_data_are_told_apart():
    batch = batch_of_one_sentence()
    assert real_sentences(batch).tolist() == [True]
    joined = join_batches([{}, batch, {}], **PADDING)
    assert real_sentences(joined).tolist() == [False, True, False]


class Recorder:
    """Stands for a generator: notes what it is asked for."""

    def generate(self, models, sample, **rows):
        self.sources = sample["net_input"]["src_tokens"]
        self.rows = rows


def test_prefixes_of_ranks_without_data_are_left_out(small_corpus):
    task = make_trained_task(small_corpus, *TRANSLATION)
    *_, last = iterator_of(task).next_epoch_itr(shuffle=False)
    keep = real_sentences(last)
    assert keep.any()
    assert not keep.all()
    recorder = Recorder()
    prefixes, constraints = last["target"][:, :2], torch.arange(len(keep)).unsqueeze(1)
    task.inference_step(
        recorder, [torch.nn.Identity()], last, prefix_tokens=prefixes, constraints=constraints
    )
    assert torch.equal(recorder.sources, last["net_input"]["src_tokens"][keep])
    assert torch.equal(recorder.rows["prefix_tokens"], prefixes[keep])
    assert torch.equal(recorder.rows["constraints"], constraints[keep])


def batches_of_epoch(task, epoch: int, *, is_resumed: bool = False) -> list[list]:
    """The source tokens of each batch, as training gets them, from a checkpoint or without."""
    is_sharded = task.has_sharded_data("train")
    if "train" not in task.datasets or is_sharded:
        task.load_dataset("train", epoch=epoch)
    iterator = task.get_batch_iterator(
        task.dataset("train"),
        max_tokens=52,
        max_positions=task.max_positions(),
        ignore_invalid_inputs=True,
        seed=3,
        epoch=epoch,
        disable_iterator_cache=is_sharded,
    )
    if is_resumed:
        iterator.load_state_dict({"epoch": epoch, "iterations_in_epoch": 0})
    return [batch["net_input"]["src_tokens"].tolist() for batch in iterator.next_epoch_itr()]


@pytest.mark.parametrize(
    "kind", ["translation", "concatenated", "round robin", "sampling by temperature"]
)
def test_a_resumed_run_has_the_batches_of_one_that_went_on(small_corpus, kind):
    if kind == "translation":
        arguments = TRANSLATION
    else:
        arguments = (*multilingual(small_corpus), *MULTILINGUAL_DATASETS[kind])
    went_on, resumed = (make_trained_task(small_corpus, *arguments) for _ in range(2))
    *_, expected = [batches_of_epoch(went_on, epoch) for epoch in (1, 2, 3)]
    assert batches_of_epoch(resumed, 3, is_resumed=True) == expected
