"""Layers count by translation direction what each of their tokens did."""

import pytest
import torch

from tests.support.models import DICTIONARY, LENGTHS, SEQ, SMALL, build_model, make_batch
from tests.support.tasks import make_trained_task, multilingual
from user_dir.training.directions import OTHER, directions_told_apart

CASES = {
    "plain": {},
    "seq": {"moe_scomoe_type": "seq", **SEQ},
    "clustered": {**SEQ, "token_cluster": True, "encoder_layers": 4, "decoder_layers": 4},
}
DIRECTIONS = torch.tensor([2, 0, 2, 0, 0, 2])  # of the sentences; none has direction 1


def reports_of(model, keep):
    net_input, _ = make_batch(LENGTHS)
    ranks = torch.arange(len(LENGTHS)) % 4
    ranks[~keep] = -1  # of no rank: counted nowhere
    model.tell_directions_apart(3)
    with torch.no_grad():
        _, extra = model.eval()(
            **net_input, sentence_ranks=ranks, sentence_directions=DIRECTIONS.clone()
        )
    return extra["moe_reports"]


@pytest.mark.parametrize("case", ["plain", "seq"])
def test_a_direction_s_counts_are_the_loads_of_its_sentences_alone(case):
    model = build_model(**SMALL, **CASES[case], moe_eval_capacity_token_fraction=0)
    everything = torch.ones(len(LENGTHS), dtype=torch.bool)
    whole = reports_of(model, everything)
    assert whole
    for report in whole:
        assert report.by_direction_LxE[1].sum() == 0
        torch.testing.assert_close(report.by_direction_LxE.sum(0), kept(report))
    if case == "plain":  # where no token's way depends on others
        for direction in (0, 2):
            alone = reports_of(model, direction == DIRECTIONS)
            for one, report in zip(alone, whole, strict=True):
                assert one.by_direction_LxE[direction].sum() > 0
                torch.testing.assert_close(kept(one), report.by_direction_LxE[direction])


def kept(report):
    return report.counted.view(-1)[7:].view(4, -1)[3]


def test_a_clustering_layer_counts_its_tokens_as_they_were_before_they_moved():
    model = build_model(**SMALL, **CASES["clustered"])
    reports = reports_of(model, torch.ones(len(LENGTHS), dtype=torch.bool))
    net_input, _ = make_batch(LENGTHS)
    for stack, key in ("encoder", "src_tokens"), ("decoder", "prev_output_tokens"):
        (first,) = [one for one in reports if one.name == f"{stack}.moe0"]
        num_tokens = net_input[key].ne(DICTIONARY.pad()).sum(1)
        expected = [int(num_tokens[one == DIRECTIONS].sum()) for one in range(3)]
        assert first.by_direction_LxE.sum(1).tolist() == expected
        torch.testing.assert_close(first.by_direction_LxE.sum(0), kept(first))
    # Those that follow get tokens without their directions.
    assert all(one.by_direction_LxE is None for one in reports if not one.name.endswith("moe0"))


@pytest.mark.parametrize("options", [(), ("--lang-tok-replacing-bos-eos", "--decoder-langtok")])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_batches_say_which_direction_each_sentence_has(small_corpus, split, options):
    task = make_trained_task(
        small_corpus, *multilingual(small_corpus), "--encoder-langtok", "tgt", *options
    )
    assert task.directions == ("en-de", "de-en")
    task.load_dataset(split, epoch=1)
    batches = task.get_batch_iterator(
        task.dataset(split), max_tokens=52, max_positions=task.max_positions(), seed=3
    )
    ids = []
    for batch in batches.next_epoch_itr(shuffle=True):
        directions, ranks = (
            batch["net_input"][f"sentence_{what}"] for what in ("directions", "ranks")
        )
        for row, direction, rank in zip(
            batch["net_input"]["src_tokens"].tolist(), directions, ranks, strict=True
        ):
            if rank >= 0:
                target = task.directions[direction].split("-")[1]
                assert task.source_dictionary.index(f"__{target}__") in row
        ids += batch["id"][ranks >= 0].tolist()
    assert max(ids) < len(task.dataset(split)), "the ids are those of the dataset again"


def test_more_directions_than_may_be_counted_are_counted_together():
    model = build_model(**SMALL)
    pairs = [f"en-l{number}" for number in range(1000)]
    names = directions_told_apart(pairs, model)
    num_counts = sum(layer.topology.num_experts for layer in model.modules() if is_mixture(layer))
    assert len(names) * num_counts <= 2**14 < (len(names) + 1) * num_counts
    assert names == (*pairs[: len(names) - 1], OTHER)
    assert directions_told_apart(["en-de"], model) == ()


def is_mixture(module):
    return hasattr(module, "topology") and hasattr(module, "gate")
