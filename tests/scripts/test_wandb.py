"""The mixtures' figures reach Weights & Biases by fairseq's own option, without a network."""

import os
import re
import subprocess

import pytest

from tests.support.commands import ROOT, environment, module, train_arguments, updates_of


def test_scalars_of_mixtures_arrive(small_corpus, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed; nothing else needs it")
    arguments = train_arguments(small_corpus / "bin", tmp_path / "run")
    arguments += ["--max-update", "1", "--no-save", "--wandb-project", "mixtures"]
    done = subprocess.run(
        list(map(str, module("train", *arguments))),
        cwd=ROOT,
        env={
            **environment(),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")])),
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    text = written.read_bytes()
    logged = updates_of(done.stdout)[1]
    mixtures = [name for name in logged if name.startswith("moe_")]
    assert "moe_bytes_between" in mixtures and "moe_encoder.1_entropy" in mixtures
    for name in mixtures:
        # A name and, within a few bytes of its record, its value.
        found = re.search(rb"train_inner/" + name.encode() + rb"[^\d-]{1,4}?(-?\d[\d.e+-]*)", text)
        assert found, name
        assert float(found.group(1)) == logged[name], name
    assert b"valid/moe_balance_loss" in text
