"""No command with our tasks loses a sentence, whatever fairseq's multiple of batch sizes is."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.support.commands import run, updates_of
from tests.support.trained import Trained

SIZES = (3, 8, 11)
SETS = dict(zip(SIZES, ("valid", "valid1", "valid2"), strict=True))
OPTIONS = ("--user-dir", "user_dir", "--task", "scomoe_translation", "-s", "en", "-t", "de")
# fairseq's own multiple (8), and batches that are no larger.
OPTIONS = (*OPTIONS, "--cpu", "--batch-size", "8", "--num-workers", "0")


@pytest.fixture(scope="module")
def sets(bilingual: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Binarised sets of so many lines."""
    folder = tmp_path_factory.mktemp("sets")
    for language in "en", "de":
        lines = bilingual.raw("en-de", language).read_text(encoding="utf-8").splitlines()
        for size in SIZES:
            text = "".join(f"{line}\n" for line in lines[:size])
            (folder / f"{size}.{language}").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "-s", "en", "-t", "de"]
    command += ["--srcdict", bilingual.data / "dict.en.txt", "--joined-dictionary"]
    command += ["--trainpref", folder / "8"]
    command += ["--validpref", ",".join(str(folder / str(size)) for size in SIZES)]
    run([*command, "--destdir", folder / "bin"])
    return folder


def num_tokens(sets: Path, size: int) -> int:
    """Of the references; words are pieces here, and every line has an end."""
    return len((sets / f"{size}.de").read_text(encoding="utf-8").split()) + size


@pytest.mark.parametrize("size", SIZES)
def test_fairseq_generate_translates_every_sentence(bilingual: Trained, sets: Path, size) -> None:
    command = [sys.executable, "-m", "fairseq_cli.generate", sets / "bin", *OPTIONS]
    done = run([*command, "--path", bilingual.checkpoint, "--gen-subset", SETS[size], "--beam", 1])
    numbers = [int(n) for n in re.findall(r"^H-(\d+)\t", done.stdout, flags=re.MULTILINE)]
    assert sorted(numbers) == list(range(size))


def test_validation_scores_every_sentence(bilingual: Trained, sets: Path, tmp_path: Path) -> None:
    subsets = ("--valid-subset", ",".join(SETS.values()), "--log-format", "json")
    command = [sys.executable, "-m", "fairseq_cli.train", sets / "bin", *OPTIONS, *subsets]
    command += ["--ignore-unused-valid-subsets", "--finetune-from-model", bilingual.checkpoint]
    command += ["--save-dir", tmp_path, "--arch", "scomoe_tiny"]
    command += ["--encoder-layers", 2, "--decoder-layers", 2]
    command += ["--encoder-embed-dim", 64, "--encoder-ffn-embed-dim", 64]
    command += ["--moe-nodes", 2, "--moe-ranks-per-node", 2, "--max-source-positions", 64]
    command += ["--max-target-positions", 64, "--criterion", "moe_cross_entropy"]
    command += ["--optimizer", "moe_adam", "--lr", "1e-3", "--max-update", 1]
    in_training = run(command)
    command = [sys.executable, "-m", "fairseq_cli.validate", sets / "bin", *OPTIONS, *subsets]
    validated = run([*command, "--path", tmp_path / "checkpoint_last.pt"])
    log = validated.stdout + validated.stderr
    for size, subset in SETS.items():
        line = re.search(rf"\| {subset} \| (\{{.*)", log)
        assert line is not None, log
        record = {key: float(value) for key, value in json.loads(line[1]).items()}
        assert record[f"{subset}_sample_size"] == num_tokens(sets, size)
        updates = updates_of(in_training.stdout + in_training.stderr, tag=subset)
        key = f"{subset}_nll_loss"
        assert updates[1][key] == pytest.approx(record[key], abs=2e-3)
