"""scomoe-upcycle: a mixture of copies of the dense layers computes what the dense model does."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY

from tests.support.models import DICTIONARY, LENGTHS, build_model, loss_of, make_batch
from user_dir.checkpoints.files import open_checkpoint
from user_dir.cli import upcycle
from user_dir.transformer.model import ScomoeModel

SIZES = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "dropout": 0.0,
}
MIXTURE = "--moe-freq 2 --moe-expert-count 8 --moe-nodes 2 --moe-ranks-per-node 2"
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
# Dense models of fairseq's kind, and the options that their mixtures start equal with.
EQUAL = [
    ({}, ""),
    ({**PRE_NORM, "share_all_embeddings": True}, "--arch scomoe_base"),
    ({"activation_fn": "gelu", "decoder_ffn_embed_dim": 40}, "--moe-freq 1"),
    ({"decoder_layers": 2}, "--encoder-moe-freq 2 --decoder-moe-freq 0"),
    (PRE_NORM, "--scomoe-type seq --ratio1 0.2 --ratio2 0.5"),
    ({}, "--scomoe-type seq --scomoe-inference-partition quota --moe-gate sigmoid"),
    ({}, "--scomoe-type feat --ratio1 0 --ratio2 0 --scomoe-feat-projection"),
    ({}, "--moe-cmr --moe-expert-count 2"),
    ({}, "--moe-shared-expert-ffn-dim 32 --moe-exchange hierarchical --moe-limit-nodes 1"),
    ({}, "--moe-top1-expert --moe-expert-count 1"),
    ({"encoder_layerdrop": 0.3}, "--moe-balance bias"),
]


def saved(model: torch.nn.Module, path: Path, options: Namespace) -> Path:
    """A file as fairseq writes them, its optimizer's state included."""
    state = {
        "args": None,
        "cfg": {"task": {"_name": "translation"}, "model": options},
        "criterion": None,
        "model": model.state_dict(),
        "optimizer_history": [
            {"criterion_name": "LabelSmoothedCrossEntropyCriterion", "num_updates": 90}
            | {"optimizer_name": "FairseqAdam", "lr_scheduler_state": {"best": 3.0}}
        ],
        "extra_state": {"train_iterator": {"epoch": 7, "iterations_in_epoch": 3}},
        "last_optimizer_state": {"state": {0: torch.ones(9)}},
    }
    torch.save(state, path)
    return path


def dense_model(folder: Path, arch: str = "transformer", **options):
    """A dense model whose weights are no longer those that it began with, and its file."""
    args = Namespace(**{**SIZES, **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    model = build_model(arch, **vars(args))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    vars(args).update(arch=arch, _name=arch)
    return model, saved(model, folder / "dense.pt", args)


def run_upcycle(dense: Path, options: str) -> int:
    return upcycle.main([str(dense), "--out", str(dense.with_name("moe.pt")), *options.split()])


def upcycled(dense: Path, options: str):
    """The mixture that the command makes, loaded as its file says."""
    assert run_upcycle(dense, options) == 0
    state = open_checkpoint(dense.with_name("moe.pt"), flag="--path")
    options = vars(state["cfg"]["model"])
    model = build_model(**{**options, "seed": 3})
    assert isinstance(model, ScomoeModel)
    model.load_state_dict(state["model"])
    return model, state


@pytest.mark.parametrize(("dense_options", "mixture"), EQUAL, ids=[one[1] for one in EQUAL])
def test_a_mixture_starts_with_the_outputs_of_its_dense_model(tmp_path, dense_options, mixture):
    dense, path = dense_model(tmp_path, **dense_options)
    model, _ = upcycled(path, f"{MIXTURE} {mixture}")
    net_input, target = make_batch(LENGTHS)
    is_real = target != DICTIONARY.pad()  # mixtures give 0 at padding
    expected, _ = dense.eval()(**net_input)
    found, extra = model.eval()(**net_input)
    assert len(extra["moe_reports"]) > 0
    torch.testing.assert_close(found[is_real], expected[is_real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "seq"])
def test_the_first_loss_in_training_is_the_dense_one_unless_experts_are_full(tmp_path, kind):
    dense, path = dense_model(tmp_path, arch="scomoe", encoder_normalize_before=True)
    net_input, target = make_batch(LENGTHS)
    # The balance loss, which the dense model has not, is no part of it.
    expected = loss_of(dense.train(), net_input, target)
    losses = {}
    for factor in "0", "0.4":
        options = f"{MIXTURE} --scomoe-type {kind} --capacity-factor {factor}"
        model, _ = upcycled(path, options)
        logits, _ = model.train()(**net_input)
        losses[factor] = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=DICTIONARY.pad(), reduction="sum"
        )
        path.with_name("moe.pt").unlink()
    torch.testing.assert_close(losses["0"], expected, rtol=1e-5, atol=0)
    assert abs(losses["0.4"] - expected) > 1e-3 * expected


def test_the_optimizer_and_the_place_in_the_data_are_not_taken_over(tmp_path):
    _, path = dense_model(tmp_path)
    _, state = upcycled(path, MIXTURE)
    assert state["last_optimizer_state"] is None
    assert state["optimizer_history"][-1]["num_updates"] == 0
    assert state["extra_state"]["train_iterator"]["epoch"] == 1
    experts = state["model"]["encoder.layers.1.feed_forward.moe.experts.weight1_LDH"]
    assert experts.shape == (8, 16, 24)
    assert experts.eq(experts[:1]).all()
    gates = state["model"]["encoder.layers.1.feed_forward.moe.gate.projection.weight"]
    assert 0 < gates.abs().max() < 0.1
    assert len(gates.unique(dim=0)) == 8


def test_the_seed_draws_the_gates(tmp_path):
    _, path = dense_model(tmp_path)
    gates = []
    for seed in "4", "4", "5":
        _, state = upcycled(path, f"{MIXTURE} --seed {seed}")
        gates.append(state["model"]["decoder.layers.1.feed_forward.moe.gate.projection.weight"])
        path.with_name("moe.pt").unlink()
    assert torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[0], gates[2])


REFUSED = {
    "": "--moe-freq is 0",
    f"{MIXTURE} --token-cluster": "--token-cluster puts all mixtures behind all attention",
    f"{MIXTURE} --reorder-layers": "--reorder-layers puts all mixtures behind all attention",
    f"{MIXTURE} --moe-top1-expert": "--moe-top1-expert weights an expert by its probability",
    f"{MIXTURE} --moe-expert-choice": "leaves out tokens that no expert takes",
    f"{MIXTURE} --scomoe-type bottleneck --moe-exchange-dim 8": "lets 8 features through",
    f"{MIXTURE} --scomoe-type feat --ratio1 0.5 --ratio2 0": "an expert 8 or 8 of the 16 features",
    f"{MIXTURE} --layernorm-after-moe-layer": "--layernorm-after-moe-layer normalises",
    f"{MIXTURE} --moe-eom 0.2": "--moe-eom scales outputs by 0.8 at evaluation",
    f"{MIXTURE} --moe-fom 0.1": "--moe-fom scales outputs by 0.9 at evaluation",
    f"{MIXTURE} --moe-expert-ffn-dim 48": "--moe-expert-ffn-dim 48 is not the hidden width",
    f"{MIXTURE} --moe-cmr --moe-shared-expert-ffn-dim 8": "--moe-shared-expert-ffn-dim 8 is not",
    f"{MIXTURE} --moe-expert-count 6": "--moe-expert-count (6) must be a multiple",
    "--arch scomoe_tiny": "--arch scomoe_tiny has --encoder-normalize-before",
}


def test_what_would_not_start_equal_is_refused_with_the_reason(tmp_path, capsys):
    _, path = dense_model(tmp_path)
    for options, reason in REFUSED.items():
        assert run_upcycle(path, options) == 2, options
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"scomoe-upcycle: error: DENSE ({path}): "), line
        assert reason in line
    assert not path.with_name("moe.pt").exists()


def test_an_existing_file_stays_and_a_mixture_is_no_dense_model(tmp_path, capsys):
    dense, path = dense_model(tmp_path)
    before = path.read_bytes()
    assert upcycle.main([str(path), "--out", str(path), *MIXTURE.split()]) == 2
    assert f"--out ({path}) exists" in capsys.readouterr().err
    assert path.read_bytes() == before
    upcycled(path, MIXTURE)
    moe = path.with_name("moe.pt")
    again = path.with_name("again.pt")
    assert upcycle.main([str(moe), "--out", str(again), *MIXTURE.split()]) == 2
    assert f"DENSE ({moe}): it has experts already" in capsys.readouterr().err
    moe.unlink()
    saved(dense, path, Namespace(**SIZES, arch="lightconv", _name="lightconv"))
    assert run_upcycle(path, MIXTURE) == 2
    assert "its architecture is lightconv" in capsys.readouterr().err
