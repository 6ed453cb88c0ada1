"""Law 1 and checkpoints through the commands: any number of processes trains the same model."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from tests.support.commands import (
    ROOT,
    environment,
    module,
    run,
    train_arguments,
    updates_of,
)
from user_dir import register  # noqa: F401 - lets the safe loader read fairseq checkpoints
from user_dir.reporting.statistics_file import STATISTICS, read_records

LOGGED = ("loss", "nll_loss", "gnorm", "sample_size", "moe_gate_loss", "moe_overflow1")


@pytest.fixture(scope="module")
def runs(small_corpus, tmp_path_factory):
    """One epoch and a bit on 1, 2 and 4 processes: (folder, updates) of each."""
    results = {}
    for processes in (1, 2, 4):
        save_dir = tmp_path_factory.mktemp(f"on{processes}")
        command = module("train", "--processes", str(processes))
        arguments = train_arguments(small_corpus / "bin", save_dir)
        extra = ["--max-update", "8", "--save-interval-updates", "4", "--max-epoch", "2"]
        done = run([*command, *arguments, *extra, "--moe-statistics-interval", "4"])
        output = done.stdout + done.stderr
        results[processes] = save_dir, updates_of(output), updates_of(output, tag="valid")
    return results


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_losses_and_gradient_norms_do_not_depend_on_the_processes(runs):
    _, expected, _ = runs[1]
    assert len(expected) == 8
    for processes in (2, 4):
        _, updates, _ = runs[processes]
        assert updates.keys() == expected.keys()
        for number, record in expected.items():
            for key in LOGGED:
                assert updates[number][key] == pytest.approx(record[key], abs=1.1e-3), (number, key)


def test_validation_does_not_depend_on_the_processes(runs):
    expected = runs[1][2]
    assert expected
    for processes in (2, 4):
        for number, record in expected.items():
            for key in ("valid_loss", "valid_nll_loss", "valid_moe_gate_loss"):
                assert runs[processes][2][number][key] == pytest.approx(record[key], abs=1.1e-3)


def test_statistics_do_not_depend_on_the_processes(runs):
    records = {
        processes: [r for r in read_records(folder / STATISTICS) if r["kind"] != "run"]
        for processes, (folder, _, _) in runs.items()
    }
    assert len(records[1]) > 3
    for processes in (2, 4):
        for mine, expected in zip(records[processes], records[1], strict=True):
            for key in ("kind", "updates", "batches", "tokens"):
                assert mine[key] == expected[key]
            assert mine["nll_loss"] == pytest.approx(expected["nll_loss"], abs=1e-3)
            assert mine["layers"].keys() == expected["layers"].keys()
            for name, layer in expected["layers"].items():
                # A choice between two experts may fall otherwise by rounding.
                assert mine["layers"][name]["load"] == pytest.approx(layer["load"], abs=2)
                for key in ("tokens_global", "entropy", "overflow1", "balance_loss"):
                    assert mine["layers"][name][key] == pytest.approx(layer[key], rel=1e-2)


def last_micro_batch(num_batches: int) -> int:
    """Which micro-batch of the epoch's last update finds ranks without a batch, from 1."""
    assert num_batches % 4 != 0
    return (-(-num_batches // 4) - 1) % 3 + 1


def test_in_those_runs_ranks_have_no_batch_in_the_third_micro_batch_of_an_update(small_corpus):
    assert last_micro_batch(number_of_batches(small_corpus / "bin", 52)) == 3


@pytest.mark.parametrize(("max_tokens", "position"), [(36, 1), (58, 2)])
def test_ranks_without_a_batch_at_every_micro_batch(small_corpus, tmp_path, max_tokens, position):
    num_batches = number_of_batches(small_corpus / "bin", max_tokens)
    assert last_micro_batch(num_batches) == position
    curves = []
    for processes in (1, 2):
        arguments = train_arguments(
            small_corpus / "bin", tmp_path / str(processes), max_tokens=max_tokens
        )
        extra = ["--max-epoch", "1", "--no-save", "--disable-validation"]
        done = run([*module("train", "--processes", str(processes)), *arguments, *extra])
        curves.append(updates_of(done.stdout + done.stderr))
    last = -(-num_batches // 12)
    assert max(curves[0]) == last
    for number, record in curves[0].items():
        for key in LOGGED:
            assert curves[1][number][key] == pytest.approx(record[key], abs=1.1e-3), (number, key)


def number_of_batches(data: Path, max_tokens: int) -> int:
    """The batches that fairseq makes of the training set."""
    parser = options.get_training_parser()
    arguments = [str(a) for a in train_arguments(data, data, max_tokens=max_tokens)]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=arguments))
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_tokens=max_tokens, max_positions=(1024, 1024), seed=3
    )
    return len(iterator.frozen_batches)


def test_models_and_adam_states_do_not_depend_on_the_processes(runs):
    first = load(runs[1][0] / "checkpoint_last.pt")
    for processes in (2, 4):
        other = load(runs[processes][0] / "checkpoint_last.pt")
        assert list(other["model"]) == list(first["model"])
        for name, tensor in first["model"].items():
            if name.endswith("k_proj.bias"):
                continue  # its gradient is zero but for rounding, which Adam blows up
            torch.testing.assert_close(other["model"][name], tensor, atol=2e-5, rtol=1e-4)
        mine = first["last_optimizer_state"]["state"]
        theirs = other["last_optimizer_state"]["state"]
        assert mine.keys() == theirs.keys()
        for index, state in mine.items():
            assert theirs[index]["step"] == state["step"]
            # The first moment is a gradient: a wrong scale of the experts' shows here.
            for moment in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(
                    theirs[index][moment], state[moment], atol=1e-6, rtol=2e-3
                )


def go_on(checkpoint: Path, data: Path, save_dir: Path, *, processes: int) -> dict:
    """Three more updates. The layout is the checkpoint's: its options are left out."""
    arguments = train_arguments(data, save_dir)
    at = arguments.index("--moe-nodes")
    del arguments[at : at + 4]
    extra = ["--restore-file", checkpoint, "--max-update", "7", "--no-save", "--disable-validation"]
    done = run([*module("train", "--processes", str(processes)), *arguments, *extra])
    return updates_of(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def went_on(runs, small_corpus, tmp_path_factory):
    """What two processes do that go on after two."""
    (checkpoint,) = runs[2][0].glob("checkpoint_1_4.pt")
    return go_on(checkpoint, small_corpus / "bin", tmp_path_factory.mktemp("on"), processes=2)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_training_goes_on_with_another_number_of_processes(
    runs, went_on, small_corpus, tmp_path, before, after
):
    (checkpoint,) = runs[before][0].glob("checkpoint_1_4.pt")
    updates = go_on(checkpoint, small_corpus / "bin", tmp_path, processes=after)
    assert sorted(updates) == [5, 6, 7]
    for number, record in went_on.items():
        for key in LOGGED:
            assert updates[number][key] == pytest.approx(record[key], abs=1.1e-3)


def test_stock_fairseq_train_runs_in_one_process(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path / "stock")
    done = run(["fairseq-train", *arguments, "--max-update", "2", "--disable-validation"])
    assert (tmp_path / "stock" / "checkpoint_last.pt").exists()
    assert len(updates_of(done.stdout + done.stderr)) == 2


def test_torchrun_starts_one_model_not_several(small_corpus, tmp_path, runs):
    arguments = train_arguments(small_corpus / "bin", tmp_path / "torchrun")
    torchrun = ["torchrun", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    done = run(
        [
            *torchrun,
            "-m",
            "user_dir.cli.train",
            *arguments,
            "--max-update",
            "2",
            "--disable-validation",
        ]
    )
    output = done.stdout + done.stderr
    updates = updates_of(output)
    # Independent jobs would each log every update, and with the losses of one.
    assert output.count("| train_inner |") == len(updates) == 2
    assert output.count("2 processes host 2 ranks each") == 1
    for number, record in updates.items():
        assert record["loss"] == pytest.approx(runs[1][1][number]["loss"], abs=1.1e-3)


def test_torchrun_of_fairseq_train_itself_is_refused(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path / "wrong")
    torchrun = ["torchrun", "--nproc-per-node", "2", "--standalone", "--no-python"]
    done = run(
        [*torchrun, "fairseq-train", *arguments, "--max-update", "2", "--disable-validation"],
        check=False,
    )
    assert done.returncode != 0
    assert "scomoe-train" in done.stdout + done.stderr
    assert not (tmp_path / "wrong" / "checkpoint_last.pt").exists()


def test_bf16_trains_on_two_processes(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path / "bf16")
    extra = [
        "--bf16",
        "--fp16-no-flatten-grads",
        "--moe-gating-use-fp32",
        "--max-update",
        "3",
        "--disable-validation",
    ]
    done = run([*module("train", "--processes", "2"), *arguments, *extra])
    updates = updates_of(done.stdout + done.stderr)
    assert len(updates) == 3
    model = load(tmp_path / "bf16" / "checkpoint_last.pt")["model"]
    assert model["encoder.layers.1.feed_forward.moe.experts.weight1_LDH"].shape[0] == 8


def test_a_killed_process_ends_the_others_and_the_run_resumes(small_corpus, tmp_path):
    save_dir = tmp_path / "killed"
    arguments = train_arguments(small_corpus / "bin", save_dir)
    command = [
        *module("train", "--processes", "2"),
        *arguments,
        *("--save-interval-updates", "2", "--disable-validation", "--max-update", "100000"),
    ]
    parent = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(save_dir / "checkpoint_last.pt", parent, seconds=120)
        workers = _children_of(parent.pid)
        assert len(workers) == 2
        _kill(workers[1])
        started = time.monotonic()
        _, errors = parent.communicate(timeout=30)
        assert time.monotonic() - started < 20
    finally:
        parent.kill()
    assert parent.returncode != 0
    assert "was ended by SIGKILL" in errors
    assert "run the same command to resume" in errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    done_updates = load(save_dir / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    resumed = run([*command[:-1], str(done_updates + 1)])
    assert sorted(updates_of(resumed.stdout + resumed.stderr)) == [done_updates + 1]


def test_a_run_that_is_asked_to_stop_saves_first(small_corpus, tmp_path):
    save_dir = tmp_path / "stopped"
    arguments = train_arguments(small_corpus / "bin", save_dir)
    command = [
        *module("train", "--processes", "2"),
        *(*arguments, "--save-interval-updates", "100000", "--max-update", "100000"),
        *("--save-interval", "100000"),
    ]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        seen = ""
        for line in process.stdout:
            seen += line
            if '"num_updates": "2"' in line:
                process.send_signal(signal.SIGUSR1)
                break
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, seen + rest
    stopped = re.search(r"asked to stop: saving and ending after update (\d+)", rest)
    assert stopped, rest
    last = int(stopped[1])
    assert last > max(updates_of(seen))
    state = load(save_dir / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == last


def _wait_for(path: Path, process: subprocess.Popen, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)


def _children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)
