"""Training runs that cannot start, must not start, or go wrong by themselves."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment, module, run, train_arguments, updates_of
from user_dir.cli import train, translate
from user_dir.errors import UserError
from user_dir.training.launch import Place
from user_dir.training.save_folder import held_save_folder

SHORT = ("--max-update", "2", "--disable-validation")
DIVERGING = ("--lr", "1e30", "--warmup-updates", "1", "--warmup-init-lr", "1e30")


def one_error(errors: str) -> str:
    """The only sentence, and the last line, on standard error."""
    assert errors.count("scomoe-train: error: ") == 1, errors
    assert "Traceback" not in errors
    line = errors.splitlines()[-1]
    assert line.startswith("scomoe-train: error: ")
    return line


@pytest.mark.parametrize("processes", ["1", "2"])
def test_training_that_diverges_says_where_and_what_would_do(small_corpus, tmp_path, processes):
    arguments = train_arguments(small_corpus / "bin", tmp_path / "save")
    command = [*module("train", "--processes", processes), *arguments, *DIVERGING]
    done = run([*command, "--max-update", "9"], check=False)
    assert done.returncode == 2
    error = one_error(done.stderr)
    assert "training diverged at update 2" in error
    assert "the output of encoder.layers.0.self_attn_layer_norm is not finite" in error
    assert "lower --lr" in error
    assert not list((tmp_path / "save").glob("*.pt"))


def test_a_finished_run_says_so_and_changes_nothing(small_corpus, tmp_path):
    command = [*module("train"), *train_arguments(small_corpus / "bin", tmp_path), *SHORT]
    run(command)
    last = tmp_path / "checkpoint_last.pt"
    before = last.read_bytes(), last.stat().st_mtime_ns
    output = run(command).stdout
    assert f"nothing to do: the run in {tmp_path} is finished after 2 updates" in output
    assert not updates_of(output)
    assert before == (last.read_bytes(), last.stat().st_mtime_ns)


@pytest.mark.parametrize("is_debugging", [False, True])
def test_what_fairseq_refuses_before_training_is_a_sentence(
    small_corpus, tmp_path, capfd, is_debugging
):
    arguments = [str(part) for part in train_arguments(small_corpus / "bin", tmp_path)]
    arguments += ["--encoder-attention-heads", "3", "--no-save"]
    assert train.main([*arguments, *["--debug"] * is_debugging]) == 2
    errors = capfd.readouterr().err
    assert ("Traceback" in errors) == is_debugging
    assert errors.splitlines()[-1].startswith(
        "scomoe-train: error: fairseq cannot begin with these options and data: AssertionError: "
        "embed_dim must be divisible by num_heads (fairseq/modules/multihead_attention.py:"
    )


def test_two_runs_do_not_share_a_folder(small_corpus, tmp_path):
    command = [*module("train"), *train_arguments(small_corpus / "bin", tmp_path), *SHORT]
    with held_save_folder(tmp_path):
        done = run(command, check=False)
    assert done.returncode == 2
    assert f"--save-dir ({tmp_path}) is in use by another run (process {os.getpid()}" in one_error(
        done.stderr
    )
    assert not list(tmp_path.glob("*.pt"))


def test_the_lock_of_a_folder_goes_with_the_process_that_holds_it(tmp_path):
    holding = (
        "import pathlib, sys, time; from user_dir.training.save_folder import held_save_folder\n"
        "with held_save_folder(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path)],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    in_use = pytest.raises(UserError, match=f"in use by another run .process {process.pid} on")
    with in_use, held_save_folder(tmp_path, patience=0):
        pass
    (tmp_path / "checkpoint_1_2.pt.tmp").write_bytes(b"half a check")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with held_save_folder(tmp_path, patience=0):
        assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(UserError, match=r"cannot be written \(Not a directory\)")
    with refused, held_save_folder(tmp_path / "file" / "save"):
        pass


@contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """As somebody who owns the folder and what is in it, but is not root, who writes everywhere."""
    if os.geteuid() != 0:
        yield
        return
    for path in folder, *folder.iterdir():
        os.chown(path, 65534, 65534)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("was_held", [False, True])
def test_a_read_only_folder_is_found_with_a_lock_from_before_too(was_held):
    # Not tmp_path, which lies in a folder that root alone may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if was_held:
            with held_save_folder(folder):
                pass
        folder.chmod(0o555)
        refused = pytest.raises(UserError, match=r"cannot be written \(Permission denied\)")
        with as_owner_of(folder), refused, held_save_folder(folder):
            pass
        folder.chmod(0o755)


def test_processes_import_nothing_from_where_the_user_stands(small_corpus, tmp_path):
    (tmp_path / "fairseq").mkdir()
    for name in ("secrets.py", "torch.py", "fairseq/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    # What they end with before training, once all is imported.
    arguments = train_arguments(small_corpus / "bin", tmp_path / "secrets.py" / "save")
    at = arguments.index("--user-dir")
    command = [sys.executable, "-P", "-m", "user_dir.cli.train", "--processes", "2"]
    done = subprocess.run(
        [*map(str, [*command, *arguments[:at], *arguments[at + 2 :]]), *SHORT],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "cannot be written" in one_error(done.stderr)
    assert not updates_of(done.stdout)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"RANK": "first", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE"),
        ({"RANK": "٣", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "SCOMOE_PARENT": "me"}, "SCOMOE_PARENT"),
        ({"SLURM_STEP_NUM_TASKS": "2.0"}, "SLURM_STEP_NUM_TASKS"),
    ],
)
def test_launch_variables_that_are_no_numbers_are_named(variables, name, monkeypatch, capsys):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert train.main(["data"]) == 2
    assert one_error(capsys.readouterr().err).startswith(f"scomoe-train: error: {name} ")


def a_place(launcher: str, *, local_index: int) -> Place:
    return Place(
        launcher=launcher,
        process_index=local_index,
        num_processes=4,
        local_index=local_index,
        init_method="env://",
        address="here",
    )


@pytest.mark.parametrize(("num_visible", "device"), [(1, "0"), (2, "1"), (8, "3")])
def test_a_task_of_srun_takes_a_gpu_that_it_sees(monkeypatch, num_visible, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_visible)
    added = train.fairseq_arguments(["data"], a_place("srun", local_index=3))
    assert added[added.index("--device-id") + 1] == device


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="start 2 processes here, or add --cpu"):
        train.fairseq_arguments(["data"], a_place("torchrun", local_index=2))


def test_experts_are_not_spread_over_more_processes_than_gpus(bilingual, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    spread = ["--spread-experts", "--processes", "2", "--input", os.devnull]
    assert translate.main(["--path", str(bilingual.checkpoint), *spread]) == 2
    assert "--spread-experts needs a GPU for each of --processes 2" in capsys.readouterr().err
