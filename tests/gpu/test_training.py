"""fairseq-train on a GPU that hosts four ranks, in mixed precision."""

import math

import pytest

pytest.importorskip("fairseq", reason="training needs fairseq")

from tests.support.commands import module, run, updates_of
from tests.support.devices import IS_CUDA

SCOMOE = {
    "gshard": [],
    "seq, clustered": ["--scomoe-type", "seq", "--token-cluster", "--checkpoint-activations"],
    "feat": ["--scomoe-type", "feat"],
}
PRECISIONS = ["fp16", "bf16"]


@pytest.fixture(scope="module")
def made_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    sizes = ["--sentences", "400", "--vocab-size", "60", "--length", "4-9"]
    run(module("make_dummy_corpus", "--out", folder, *sizes, "--languages", "en-de"))
    return folder / "bin"


def train(data, save_dir, *options) -> dict[int, dict[str, float]]:
    """The records of six updates of a tiny model on 2 nodes x 2 ranks."""
    layout = ["--moe-nodes", "2", "--moe-ranks-per-node", "2", "--moe-expert-count", "8"]
    command = module("train", data, "--user-dir", "user_dir", "--task", "scomoe_translation")
    command += ["-s", "en", "-t", "de", "--arch", "scomoe_tiny", *layout]
    command += ["--criterion", "moe_cross_entropy", "--moe-gating-use-fp32"]
    command += ["--optimizer", "moe_adam", "--lr", "3e-3", "--clip-norm", "0.5"]
    command += ["--max-tokens", "256", "--max-update", "6", "--required-batch-size-multiple", "1"]
    command += ["--log-format", "json", "--log-interval", "1", "--seed", "3"]
    done = run([*command, "--save-dir", save_dir, "--num-workers", "0", *options])
    return updates_of(done.stdout + done.stderr)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scomoe", SCOMOE.values(), ids=SCOMOE)
def test_a_few_updates_in_mixed_precision_learn(made_corpus, tmp_path, scomoe, precision):
    options = [f"--{precision}", "--fp16-no-flatten-grads", *([] if IS_CUDA else ["--cpu"])]
    updates = train(made_corpus, tmp_path, *scomoe, *options)
    assert all(math.isfinite(record["loss"]) for record in updates.values())
    # fp16 leaves out the updates in which it finds its scale of the loss.
    assert updates[max(updates)]["loss"] < updates[min(updates)]["loss"]
    assert (tmp_path / "checkpoint_last.pt").is_file()
