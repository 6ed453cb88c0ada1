"""Processes of a run that fail, hang, die or never come: all end, with a sentence, or restart."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment, module, run, train_arguments, updates_of
from tests.support.running import running
from user_dir.training.connection import connect
from user_dir.training.failures import LostPeers
from user_dir.training.launch import Place

ENDLESS = ("--max-update", "100000", "--disable-validation")

# Python runs this when it starts: the fifth backward pass of process 1 finds no memory.
NO_MEMORY = """
import os
if os.environ.get("RANK") == "1":
    import torch
    backward, passes = torch.Tensor.backward, []
    def fail_once(self, *args, **kwargs):
        passes.append(1)
        if len(passes) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return backward(self, *args, **kwargs)
    torch.Tensor.backward = fail_once
"""


def test_a_process_without_memory_ends_all_of_them(small_corpus, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_MEMORY)
    command = [*module("train", "--processes", "2"), *ENDLESS]
    command += train_arguments(small_corpus / "bin", tmp_path / "save")
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert sorted(updates_of(done.stdout)) == [1]
    assert done.stderr.splitlines()[-1].startswith(
        "scomoe-train: error: process 1 of 2 ran out of memory (CUDA out of memory. Tried to "
        "allocate 2.00 GiB); run the same command with a smaller --max-tokens"
    )
    assert not list((tmp_path / "save").glob("crash.pt"))


@pytest.mark.parametrize(
    ("index", "address", "missing"),
    [
        (0, "127.0.0.1:0", "1/2 clients joined"),
        (1, "127.0.0.1:1", "found no peers at 127.0.0.1:1 within 0.01 minutes"),
        (1, "no-such-host.invalid:29500", "found no peers at no-such-host.invalid:29500"),
    ],
)
def test_peers_that_never_come_are_named(index, address, missing):
    place = Place("torchrun", index, 2, index, f"tcp://{address}", address)
    with pytest.raises(LostPeers, match=missing):
        connect(place, backend="gloo", timeout_minutes=1, start_minutes=0.01)


def trainers_below(pid: int) -> list[int]:
    """The processes that train, by index, below one that has started them."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            variables = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has gone
        index = [v.partition(b"=")[2] for v in variables if v.startswith(b"RANK=")]
        if parent == pid and index:
            found[int(index[0])] = int(status.parent.name)
    return [found[index] for index in sorted(found)]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run_after_the_given_time(small_corpus, tmp_path):
    command = [*module("train", "--processes", "2"), *ENDLESS]
    command += ["--distributed-timeout-minutes", "0.2", "--no-save"]
    command += train_arguments(small_corpus / "bin", tmp_path)
    out = tmp_path / "out"
    with running(command, out, until=lambda log: updates_of(log)) as process:
        os.kill(trainers_below(process.pid)[1], signal.SIGSTOP)
        assert process.wait(timeout=60) == 3
    assert (
        out.read_text()
        .splitlines()[-1]
        .startswith(
            "scomoe-train: error: process 0 of 2 heard nothing from the others for 0.2 minutes "
            "(--distributed-timeout-minutes)"
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_restarts_from_the_last_checkpoint(small_corpus, tmp_path, victim):
    command = ["torchrun", "--nproc-per-node", "2", "--standalone", "--max-restarts", "1"]
    command += ["-m", "user_dir.cli.train", *train_arguments(small_corpus / "bin", tmp_path)]
    command += ["--save-interval-updates", "1", "--keep-interval-updates", "1", "--max-epoch", "2"]
    command += ["--disable-validation", "--no-epoch-checkpoints"]
    out = tmp_path / "out"
    with running(command, out, until=lambda log: 2 in updates_of(log)) as process:
        os.kill(trainers_below(process.pid)[victim], signal.SIGKILL)
        assert process.wait(timeout=200) == 0
    text = out.read_text()
    assert "Loaded checkpoint" in text
    assert sorted(updates_of(text)) == list(range(1, 11))
    assert "nothing to do" in run(command).stdout
