"""From a dense model to a mixture by the commands: trained, upcycled, trained on."""

from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from tests.support.checkpoints import FIXTURE
from tests.support.commands import train_arguments
from user_dir.cli import train, upcycle

LAYOUT = ["--moe-nodes", "2", "--moe-ranks-per-node", "2"]


def train_in(folder: Path, *options: str) -> int:
    arguments = [*train_arguments(FIXTURE / "bin", folder), "--disable-validation"]
    return train.main([*map(str, arguments), "--max-update", "2", *options])


def test_a_mixture_has_the_loss_of_its_dense_model_and_is_trained_on(tmp_path, capfd):
    assert train_in(tmp_path / "dense", "--moe-freq", "0") == 0
    dense, mixture = tmp_path / "dense" / "checkpoint_last.pt", tmp_path / "moe.pt"
    arguments = [str(dense), "--out", str(mixture), "--arch", "scomoe_tiny", *LAYOUT]
    assert upcycle.main(arguments) == 0
    told = capfd.readouterr().out.splitlines()[-1]
    assert "--encoder-embed-dim 16" in told
    of_dense = validation_loss(dense)
    assert validation_loss(mixture) == pytest.approx(of_dense, rel=1e-5)

    assert train_in(tmp_path / "moe", "--finetune-from-model", str(mixture)) == 0
    trained = tmp_path / "moe" / "checkpoint_last.pt"
    assert validation_loss(trained) != pytest.approx(of_dense, rel=1e-5)
    state = torch.load(trained, weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    experts = state["model"]["encoder.layers.1.feed_forward.moe.experts.weight1_LDH"]
    assert not experts.eq(experts[:1]).all()  # no longer alike

    capfd.readouterr()
    assert train_in(tmp_path / "other", "--finetune-from-model", str(dense)) == 2
    assert f"`scomoe-upcycle {dense} --out moe.pt`" in capfd.readouterr().err


def validation_loss(path: Path) -> float:
    """The cross entropy of the validation set, added up."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    task.load_dataset("valid")
    batches = task.get_batch_iterator(task.dataset("valid"), max_sentences=4)
    total = 0.0
    for batch in batches.next_epoch_itr(shuffle=False):
        with torch.no_grad():
            logits, _ = models[0].eval()(**batch["net_input"])
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            batch["target"].flatten(),
            ignore_index=task.target_dictionary.pad(),
            reduction="sum",
        ).item()
    return total
