"""The training scripts: what they print, refuse and run."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment

FOLDER = ROOT / "train_scripts" / "scomoe"
DUMMY = ["dummy_train_base_model", "dummy_train_large_model"]
WMT = ["train_base_models_on_wmt-en-fr", "train_large_model_on_wmt-en-fr"]
OPUS = ["train_base_model_on_opus100", "train_large_model_on_opus100"]
SCRIPTS = [*DUMMY, *WMT, *OPUS]

# No bigger than a test may be.
SMALL = ["--cpu", "--nodes", "2", "--gpus", "2", "--arch", "scomoe_tiny", "--max-tokens", "200"]


def run_script(
    name: str, *arguments: str | Path, variables: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", FOLDER / f"{name}.sh", *map(str, arguments)],
        cwd=cwd,
        env={**environment(), **(variables or {})},
        capture_output=True,
        text=True,
        timeout=240,
    )


def dry_run(name: str, *arguments: str | Path, **options) -> list[str]:
    """The words of the final command."""
    done = run_script(name, "--dry-run", *arguments, **options)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.splitlines()[-1])


def value_of(words: list[str], flag: str) -> str:
    """What argparse would make of the words: the last one wins."""
    return words[len(words) - words[::-1].index(flag)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_an_example_that_the_script_takes(name: str) -> None:
    shown = run_script(name, "--help")
    assert shown.returncode == 0
    examples = shown.stdout.split("Example:\n")[1].replace("\\\n", " ").strip().splitlines()
    assert len(examples) == 2
    for example in examples:
        words = [word for word in shlex.split(example) if word != "sbatch"]
        assert Path(words[0]) == (FOLDER / f"{name}.sh").relative_to(ROOT)
        assert "user_dir.cli.train" in dry_run(name, *words[1:])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_shows_the_paper_s_settings_and_writes_nothing(name: str, tmp_path: Path) -> None:
    words = dry_run(name, "--data", "some corpus", cwd=tmp_path)
    is_large = "large" in name
    expected = {
        "--arch": "scomoe_large" if is_large else "scomoe_base",
        "--moe-nodes": "4" if is_large else "1",
        "--moe-ranks-per-node": "8",
        "--adam-betas": "(0.9, 0.98)",
        "--lr": "5e-4",
        "--warmup-updates": "4000",
        "--max-tokens": "4096",
        "--clip-norm": "0.5" if is_large else "1.0",
        "--capacity-factor": "1.25" if is_large else "1.0",
        "--dropout": "0.1" if name in OPUS else "0.3",
        "--moe-gate-loss-wt": "0.1" if name in OPUS else "0.01",
    }
    assert {flag: value_of(words, flag) for flag in expected} == expected
    assert ("--update-freq" in words) == is_large
    assert "--scomoe-type" not in words
    assert "some corpus/bin" in words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scomoe", "kind", "ratios", "clusters"),
    [
        ("seq", "seq", ("0.2", "0.5"), False),
        ("feat", "feat", ("0.25", "0.5"), False),
        ("seq+cluster", "seq", ("0.2", "0.5"), True),
        ("feat+cluster", "feat", ("0.25", "0.5"), True),
    ],
)
def test_scomoe_adds_its_options(
    scomoe: str, kind: str, ratios: tuple[str, str], clusters: bool
) -> None:
    words = dry_run(WMT[0], "--data", "x", "--scomoe", scomoe)
    assert value_of(words, "--scomoe-type") == kind
    assert (value_of(words, "--ratio1"), value_of(words, "--ratio2")) == ratios
    assert ("--token-cluster" in words) == clusters
    assert not clusters or value_of(words, "--temperature") == "0.5"


def test_other_options_go_to_fairseq_and_win() -> None:
    words = dry_run(OPUS[0], "--data", "x", "--lr", "1e-3", "--arch", "scomoe_tiny")
    assert words[-4:] == ["--lr", "1e-3", "--arch", "scomoe_tiny"]


def test_directions_without_a_validation_set_are_not_trained(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    words = dry_run(OPUS[0], "--data", tmp_path)
    assert value_of(words, "--lang-pairs") == f"{tmp_path}/bin/pairs.txt"
    (tmp_path / "bin" / "valid_pairs.txt").touch()
    words = dry_run(OPUS[0], "--data", tmp_path)
    assert value_of(words, "--lang-pairs") == f"{tmp_path}/bin/valid_pairs.txt"


def test_the_processes_of_this_machine_divide_the_layout() -> None:
    words = dry_run(WMT[1], "--data", "x", "--cpu", "--nodes", "1", "--gpus", "1")
    assert value_of(words, "--processes") == "1"
    words = dry_run(WMT[1], "--data", "x", "--cpu", "--gpus", "6", "--processes", "3")
    assert value_of(words, "--processes") == "3"
    assert "--fp16" not in words and "--cpu" in words


def test_gpus_compute_in_half_precision() -> None:
    words = dry_run(WMT[0], "--data", "x")
    assert "--fp16" in words and "--fp16-no-flatten-grads" in words
    assert "--bf16" in dry_run(WMT[0], "--data", "x", "--precision", "bf16")


@pytest.mark.parametrize("name", [WMT[1], DUMMY[1]])
def test_under_slurm_srun_starts_it_and_the_layout_is_the_job_s(name: str) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    words = dry_run(name, "--data", "x", variables=job)
    assert words[0] == "srun"
    assert not {"--processes", "--moe-nodes", "--moe-ranks-per-node"} & set(words)
    words = dry_run(name, "--data", "x", "--nodes", "2", "--gpus", "2", variables=job)
    assert (value_of(words, "--moe-nodes"), value_of(words, "--moe-ranks-per-node")) == ("2", "2")
    refused = run_script(name, "--data", "x", "--processes", "2", variables=job)
    assert refused.returncode == 2 and "--processes" in refused.stderr


def test_within_a_task_of_srun_it_does_not_start_srun_again() -> None:
    task = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    assert dry_run(WMT[1], "--data", "x", variables=task)[0] == "env"


@pytest.mark.parametrize("name", SCRIPTS)
def test_sbatch_reads_the_size_of_the_job_from_the_script(name: str) -> None:
    text = (FOLDER / f"{name}.sh").read_text()
    options = " ".join(re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)).split()
    nodes = 4 if "large" in name else 1
    assert {f"--nodes={nodes}", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(options)
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@300"} <= set(options)


def test_a_copy_of_the_script_finds_the_repository_through_slurm(tmp_path: Path) -> None:
    """As sbatch runs it: from a spool folder."""
    copy = tmp_path / "job00001" / "slurm_script"
    copy.parent.mkdir()
    shutil.copy(FOLDER / f"{WMT[1]}.sh", copy)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    original = FOLDER / f"{WMT[1]}.sh"
    scontrol.write_text(f"#!/bin/sh\necho '   Command={original} --data x --flag y.sh'\n")
    scontrol.chmod(0o755)
    variables = {**environment(), "SLURM_JOB_ID": "7"}
    variables["PATH"] = f"{scontrol.parent}:{variables['PATH']}"
    command = ["bash", copy, "--data", "x", "--dry-run"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"PYTHONPATH={ROOT}" in done.stdout


@pytest.mark.parametrize("name", [WMT[0], OPUS[1], DUMMY[0]])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--gpus", "0"), "--gpus"),
        (("--nodes", "two"), "--nodes"),
        (("--scomoe", "sequence"), "--scomoe"),
        (("--precision", "fp8"), "--precision"),
        (("--cpu", "--precision", "fp16"), "--precision"),
        (("--save-dir",), "--save-dir"),
    ],
)
def test_mistakes_are_named(name: str, arguments: tuple[str, ...], named: str) -> None:
    done = run_script(name, "--data", "x", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: ") and named in done.stderr


@pytest.mark.parametrize("name", [*WMT, *OPUS])
def test_the_corpus_is_needed(name: str, tmp_path: Path) -> None:
    assert "--data is needed" in run_script(name).stderr
    done = run_script(name, "--data", tmp_path)
    assert done.returncode == 2 and f"--data ({tmp_path})" in done.stderr


def test_a_direction_has_two_languages() -> None:
    done = run_script(WMT[0], "--data", "x", "--direction", "en")
    assert done.returncode == 2 and "--direction" in done.stderr


def test_a_length_of_made_sentences_has_two_ends(tmp_path: Path) -> None:
    done = run_script(DUMMY[0], "--cpu", "--save-dir", tmp_path, "--length", "50-10")
    assert done.returncode == 2 and "--length" in done.stderr


def test_made_data_trains_and_gives_speed_and_bytes_by_reach(tmp_path: Path) -> None:
    save_dir = tmp_path / "dummy run"
    sizes = ["--sentences", "400", "--vocab-size", "200", "--length", "5-9", "--update-freq", "1"]
    options = ["--save-dir", save_dir, "--scomoe", "seq+cluster", "--max-update", "4"]
    options += ["--log-interval", "1", "--encoder-embed-dim", "32", "--decoder-embed-dim", "32"]
    done = run_script(DUMMY[1], *SMALL, *sizes, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    report = done.stdout[done.stdout.rindex("median") :]
    figures = re.findall(r"^(tokens a second|moe_bytes_\w+) +(\S+)", report, re.MULTILINE)
    names = [name for name, _ in figures]
    assert names == ["tokens a second", "moe_bytes_rank", "moe_bytes_node", "moe_bytes_between"]
    assert all(float(figure) > 0 for _, figure in figures)
    assert "layout: 2 nodes x 2 ranks" in (save_dir / "train.log").read_text()
    assert not list(save_dir.glob("*.pt"))

    again = run_script(DUMMY[1], *SMALL, *sizes, *options[:4], "--max-update", "1")
    assert "holds the same made sentences already" in again.stdout


def test_the_same_command_goes_on_after_a_signal(three_languages: Path, tmp_path: Path) -> None:
    options = ["--data", three_languages, "--save-dir", tmp_path, *SMALL, "--disable-validation"]
    options += ["--update-freq", "1", "--log-interval", "2", "--processes", "2"]
    endless = ["--max-epoch", "0", "--max-update", "100000"]
    log = tmp_path / "train.log"
    with subprocess.Popen(
        ["bash", FOLDER / f"{OPUS[1]}.sh", *map(str, [*options, *endless])],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        _wait_for_text(log, '"num_updates": "2"', running)
        os.kill(running.pid, signal.SIGINT)
        assert running.wait(timeout=120) == 130
    assert "asked to stop" in log.read_text()
    assert (tmp_path / "checkpoint_last.pt").exists()

    done = run_script(OPUS[1], *options, "--max-epoch", "0", "--max-update", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Loaded checkpoint .*checkpoint_last.pt", done.stdout)


def _wait_for_text(path: Path, text: str, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while not (path.exists() and text in path.read_text()):
        assert running.poll() is None, path.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("path", ["lib", *(f"scomoe/{name}" for name in SCRIPTS)])
def test_scripts_are_clean(path: str) -> None:
    script = ROOT / "train_scripts" / f"{path}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--external-sources", script], check=True)
