"""Training under a real Slurm: ranks from its variables, stops, requeues, nodes that go away."""

import shlex
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, SlurmCluster
from tests.support.commands import module, run, train_arguments, updates_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_SCRIPT = """#!/usr/bin/env bash
#SBATCH --nodes=2 --ntasks-per-node=2 --requeue --open-mode=append --output={output}
export PYTHONPATH={root} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0
echo "start ${{SLURM_RESTART_COUNT:-0}}"
srun {srun} {command}
"""


def without_layout(arguments: list) -> list:
    """The layout is then what Slurm started."""
    at = arguments.index("--moe-nodes")
    return arguments[:at] + arguments[at + 4 :]


def write_script(folder: Path, arguments: list, *, srun: str = "") -> tuple[Path, Path]:
    """A batch script and the file that its output goes to."""
    command = [sys.executable, "-m", "user_dir.cli.train", *arguments]
    script, output = folder / "job.sh", folder / "job.out"
    text = _SCRIPT.format(
        output=output, root=ROOT, srun=srun, command=shlex.join(map(str, command))
    )
    script.write_text(text)
    return script, output


@pytest.fixture(scope="module")
def expected(small_corpus, tmp_path_factory):
    """The updates of one process that hosts the layout of 2 nodes x 2 ranks."""
    arguments = train_arguments(small_corpus / "bin", tmp_path_factory.mktemp("expected"))
    extra = ["--max-update", "4", "--no-save", "--disable-validation"]
    done = run([*module("train"), *arguments, *extra])
    return updates_of(done.stdout + done.stderr)


@pytest.mark.parametrize("distribution", ["block", "cyclic"])
def test_tasks_take_their_places_whatever_their_distribution(
    cluster: SlurmCluster, small_corpus, tmp_path, expected, distribution
):
    arguments = without_layout(train_arguments(small_corpus / "bin", tmp_path / "model"))
    arguments += ["--max-update", "4", "--no-save", "--disable-validation"]
    script, output = write_script(tmp_path, arguments, srun=f"--distribution={distribution}")
    job = cluster.submit(script)
    shown = cluster.wait_for(job, ["COMPLETED", "FAILED"], seconds=180)
    text = output.read_text()
    assert shown["JobState"] == "COMPLETED", text[-3000:]
    assert "layout: 2 nodes x 2 ranks; 4 processes host 1 ranks each" in text
    updates = updates_of(text)
    assert updates.keys() == expected.keys()
    for number, record in expected.items():
        for key in ("loss", "gnorm", "sample_size"):
            assert updates[number][key] == pytest.approx(record[key], abs=1.1e-3), (number, key)


def test_a_job_goes_on_from_its_last_checkpoint_when_a_node_dies(
    cluster: SlurmCluster, small_corpus, tmp_path
):
    save_dir = tmp_path / "model"
    arguments = without_layout(train_arguments(small_corpus / "bin", save_dir))
    arguments += ["--max-update", "400", "--save-interval-updates", "10", "--disable-validation"]
    arguments += ["--keep-interval-updates", "2", "--no-epoch-checkpoints"]
    script, output = write_script(tmp_path, arguments)
    job = cluster.submit(script)
    _wait_for_text(cluster, job, output, '"num_updates": "30"')
    cluster.kill_node("n2")
    cluster.wait_for(job, ["PENDING", "REQUEUED", "CONFIGURING"], seconds=90)
    cluster.start_node("n2")
    shown = cluster.wait_for(job, ["COMPLETED", "FAILED"], seconds=300)
    text = output.read_text()
    assert shown["JobState"] == "COMPLETED", text[-3000:]
    first, second = text.partition("start 1")[::2]
    assert max(updates_of(second)) == 400
    went_on_from = min(updates_of(second))
    assert 20 < went_on_from <= max(updates_of(first)) + 1


def _wait_for_text(cluster: SlurmCluster, job: str, output: Path, text: str) -> None:
    deadline = time.monotonic() + 180
    while not (output.exists() and text in output.read_text()):
        state = cluster.state(job)["JobState"]
        assert state in ("PENDING", "RUNNING", "CONFIGURING"), output.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{text} does not come"
        time.sleep(0.3)
