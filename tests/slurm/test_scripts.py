"""The training and eval scripts as batch jobs of a real Slurm."""

import json
import shlex
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, SlurmCluster
from tests.support.commands import updates_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRAIN = ROOT / "train_scripts" / "scomoe" / "train_large_model_on_opus100.sh"
EVALUATE = ROOT / "eval_scripts" / "eval_large_on_opus.sh"

# What makes the paper's job fit two nodes with two processors and no GPU.
JOB = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
EXPORT = "--export=ALL,GLOO_SOCKET_IFNAME=eth0,OMP_NUM_THREADS=1"
MODEL = shlex.split("""
--cpu --scomoe seq+cluster --arch scomoe_tiny --encoder-embed-dim 16 --decoder-embed-dim 16
--encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 --encoder-attention-heads 2
--decoder-attention-heads 2 --max-tokens 52 --update-freq 1 --disable-validation --max-epoch 0
--log-interval 1 --num-workers 0
""")
LAST = 400


def submit(cluster: SlurmCluster, script: Path, output: Path, *arguments: str | Path) -> str:
    return cluster.submit(*JOB, EXPORT, f"--output={output}", script, *arguments)


@pytest.fixture(scope="module")
def save_dir(cluster: SlurmCluster, small_corpus: Path, tmp_path_factory) -> Path:
    """A run that was told to stop once, as Slurm tells it before its time is up, and requeued."""
    folder = tmp_path_factory.mktemp("opus") / "model"
    output = folder.parent / "job.out"
    arguments = ["--data", small_corpus, "--save-dir", folder, *MODEL]
    job = submit(cluster, TRAIN, output, *arguments, "--max-update", str(LAST))
    _wait_for_text(cluster, job, folder / "train.log", '"num_updates": "10"')
    cluster.run(["scancel", "--signal=USR1", "--batch", job])
    cluster.wait_for(job, ["PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING"], seconds=90)
    # Slurm holds a requeued job back for two minutes.
    shown = cluster.wait_for(job, ["COMPLETED", "FAILED"], seconds=400)
    assert shown["JobState"] == "COMPLETED", output.read_text()[-3000:]
    assert shown["Restarts"] == "1"
    return folder


def test_a_job_told_to_stop_saves_is_requeued_and_goes_on(save_dir: Path) -> None:
    first, _, second = (save_dir / "train.log").read_text().partition("Loaded checkpoint")
    assert "asked to stop" in first and "layout: 2 nodes x 2 ranks; 4 processes" in first
    stopped_at = max(updates_of(first))
    assert stopped_at < LAST
    # Not one update is lost or repeated.
    assert sorted(updates_of(second)) == list(range(stopped_at + 1, LAST + 1))


def test_evaluation_shares_the_directions_out_over_the_nodes(
    cluster: SlurmCluster, small_corpus: Path, save_dir: Path, tmp_path: Path
) -> None:
    output, scores = tmp_path / "job.out", tmp_path / "scores"
    arguments = ["--data", small_corpus, "--save_dir", save_dir, "--output", scores]
    options = ["--cpu", "--beam", "1", "--max-len-b", "20"]
    job = submit(cluster, EVALUATE, output, *arguments, *options)
    shown = cluster.wait_for(job, ["COMPLETED", "FAILED"], seconds=200)
    assert shown["JobState"] == "COMPLETED", output.read_text()[-3000:]
    rows = json.loads((scores / "scores.json").read_text())["directions"]
    assert sorted(row["name"] for row in rows) == ["de-en", "en-de"]
    for node, direction in enumerate(rows):
        part = scores.with_name(f"scores.part-{node}")
        (translation,) = part.glob("test.*-*.*")
        name = translation.name
        assert direction["name"] in name
        assert translation.read_text() == (scores / name).read_text()


def _wait_for_text(cluster: SlurmCluster, job: str, path: Path, text: str) -> None:
    deadline = time.monotonic() + 180
    while not (path.exists() and text in path.read_text()):
        state = cluster.state(job)["JobState"]
        log = path.read_text()[-3000:] if path.exists() else ""
        assert state in ("PENDING", "RUNNING", "CONFIGURING"), log
        assert time.monotonic() < deadline, f"{text} does not come"
        time.sleep(0.3)
