"""A run that ends in the validation that a save waits for."""

import signal
import sys

import pytest
import torch

import user_dir  # noqa: F401 - lets the safe loader read fairseq checkpoints
from tests.support.commands import module, run, train_arguments, updates_of
from tests.support.running import running
from user_dir.cli import train
from user_dir.training import stopping

# Training whose validation takes long.
SLOW_VALIDATION = """
import sys, time
import fairseq.trainer
step = fairseq.trainer.Trainer.valid_step
def slow_step(*args, **kwargs):
    time.sleep(3)
    return step(*args, **kwargs)
fairseq.trainer.Trainer.valid_step = slow_step
from user_dir.cli.train import main
sys.exit(main())
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_was_trained_is_saved_before_and_validated_afterwards(
    small_corpus, tmp_path, sent, status
):
    arguments = train_arguments(small_corpus / "bin", tmp_path)
    arguments += ["--batch-size-valid", "1", "--max-update", "2"]
    command = [sys.executable, "-c", SLOW_VALIDATION, *arguments]
    out = tmp_path / "out"
    with running(command, out, until=lambda log: "begin validation" in log) as process:
        process.send_signal(sent)
        assert process.wait(timeout=60) == status
    log = out.read_text()
    assert not updates_of(log, tag="valid")
    is_asked = sent == signal.SIGINT
    assert ("asked to stop: ending after update 2, which is saved" in log) == is_asked
    assert log.count("scomoe-train: interrupted: saving, then ending") == is_asked
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint_last.pt"]
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)

    resumed = run([*module("train"), *arguments]).stdout
    assert not updates_of(resumed)
    assert list(updates_of(resumed, tag="valid")) == [2]
    assert "nothing to do" in resumed
    best = torch.load(tmp_path / "checkpoint_best.pt", weights_only=True)
    assert best["extra_state"]["val_loss"] is not None
    assert best["optimizer_history"][-1]["num_updates"] == 2
    assert best["extra_state"]["train_iterator"] == saved["extra_state"]["train_iterator"]
    for name, tensor in saved["model"].items():
        assert torch.equal(tensor, best["model"][name])


def test_asked_to_stop_before_the_first_update_there_is_nothing_to_save(
    small_corpus, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(stopping, "_is_requested", True)
    monkeypatch.setattr(stopping, "_is_agreed", False)
    caplog.set_level("INFO")
    arguments = [str(part) for part in train_arguments(small_corpus / "bin", tmp_path)]
    assert train.main(arguments) == 0
    assert "asked to stop: ending before the first update" in caplog.text
    assert not list(tmp_path.glob("*.pt"))
