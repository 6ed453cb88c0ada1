"""The loss is the sum over ranks of cross entropy and weighted balance loss."""

from types import SimpleNamespace

import pytest
import torch

from tests.support.models import DICTIONARY, SMALL, build_model, make_batch
from user_dir.errors import UserError
from user_dir.training.batches import join_batches
from user_dir.training.criterion import MoeCrossEntropyCriterion

TASK = SimpleNamespace(target_dictionary=DICTIONARY)
PAD = DICTIONARY.pad()


def criterion(**options):
    defaults = {"sentence_avg": False, "label_smoothing": 0.1, "moe_gate_loss_wt": 0.5}
    return MoeCrossEntropyCriterion(TASK, **{**defaults, **options})


def batch_of_rank(lengths, seed):
    net_input, target = make_batch(lengths, seed=seed)
    return {
        "id": torch.arange(len(lengths)),
        "nsentences": len(lengths),
        "ntokens": int(target.ne(PAD).sum()),
        "net_input": net_input,
        "target": target,
    }


BATCHES = [batch_of_rank([5, 3], 1), {}, batch_of_rank([9], 2), batch_of_rank([2, 2, 4], 3)]


def joined():
    return join_batches(BATCHES, pad_idx=PAD, eos_idx=DICTIONARY.eos())


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_no_loss_can_have_is_refused(weight):
    with pytest.raises(UserError, match="--moe-gate-loss-wt must be 0 or more"):
        criterion(moe_gate_loss_wt=weight)


@pytest.mark.parametrize("combine", ["average", "sum"])
@pytest.mark.parametrize("sentence_avg", [False, True])
def test_the_loss_adds_up_over_ranks(combine, sentence_avg):
    model = build_model(**SMALL, moe_second_expert_policy="all").train()
    loss, sample_size, log = criterion(
        moe_gate_loss_combine_method=combine, sentence_avg=sentence_avg
    )(model, joined())
    logits, extra = model(**joined()["net_input"])
    logprobs = logits.log_softmax(-1)
    expected = 0.0
    size_key = "nsentences" if sentence_avg else "ntokens"
    smoothing = 0.1 / (len(DICTIONARY) - 1)
    target = joined()["target"]
    for b in range(target.shape[0]):
        for t in range(target.shape[1]):
            if target[b, t] != PAD:
                nll = -logprobs[b, t, target[b, t]]
                expected += (0.9 - smoothing) * nll - smoothing * logprobs[b, t].sum()
    for rank, batch in enumerate(BATCHES):
        losses = [report.balance_loss_V[rank] for report in extra["moe_reports"]]
        layers = sum(losses) / (len(losses) if combine == "average" else 1)
        expected += 0.5 * batch.get(size_key, 0) * layers
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sample_size == sum(batch.get(size_key, 0) for batch in BATCHES)
    assert log["ntokens"] == sum(batch.get("ntokens", 0) for batch in BATCHES)


def test_a_rank_without_a_batch_adds_nothing_to_the_gradients():
    grads = []
    for batches in (BATCHES, [b if b else batch_of_rank([4], 9) for b in BATCHES]):
        model = build_model(**SMALL, capacity_factor=0.0, moe_second_expert_policy="all").train()
        sample = join_batches(batches, pad_idx=PAD, eos_idx=DICTIONARY.eos())
        if batches is not BATCHES:  # the same batch, its sentence told to hold no tokens
            ranks = sample["net_input"]["sentence_ranks"]
            sample["target"][ranks == 1] = PAD
            sample["ntokens"] -= batches[1]["ntokens"]
            ranks[ranks == 1] = -1
        loss, _, _ = criterion()(model, sample)
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_neg_log_is_refused_with_the_reason():
    with pytest.raises(UserError, match="collapse"):
        criterion(moe_gate_loss_transform="neg-log")


def test_joined_batches_keep_their_padding_sides():
    sample = joined()
    src, target = sample["net_input"]["src_tokens"], sample["target"]
    assert (src[:, -1] == DICTIONARY.eos()).all()
    assert sample["net_input"]["sentence_ranks"].tolist() == [0, 0, -1, 2, 3, 3, 3]
    assert (target[2] == PAD).all()
    for row in target:
        real = row.ne(PAD).long()
        assert (real.diff() <= 0).all()
