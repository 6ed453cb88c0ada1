"""A checkpoint of an earlier version translates as it did, and trains on as it did."""

import json

import pytest

from tests.support.commands import ROOT, module, run

FOLDER = ROOT / "tests" / "fixtures" / "seq_and_clusters"
EXPECTED = json.loads((FOLDER / "resumed.json").read_text())
TRAINING = [
    *(FOLDER / "bin", "--task", "scomoe_translation", "-s", "en", "-t", "de"),
    *("--arch", "scomoe_tiny", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "16"),
    *("--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    *("--moe-nodes", "2", "--moe-ranks-per-node", "2", "--moe-expert-count", "8"),
    *("--scomoe-type", "seq", "--ratio1", "0.2", "--ratio2", "0.5", "--token-cluster"),
    *("--cluster-by", "scores"),  # all that there was
    # Validation was by the ratios of training then.
    *("--scomoe-inference-partition", "quota"),
    *("--criterion", "moe_cross_entropy", "--label-smoothing", "0.1", "--dropout", "0"),
    *("--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "0.5"),
    *("--lr", "5e-3", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "40"),
    *("--max-tokens", "128", "--required-batch-size-multiple", "1", "--seed", "3"),
    *("--log-format", "json", "--num-workers", "0", "--cpu", "--no-save"),
    *("--restore-file", FOLDER / "checkpoint.pt", "--max-update", "243"),
]


def test_it_translates_as_it_did(tmp_path):
    output = tmp_path / "translation.de"
    arguments = ["--path", FOLDER / "checkpoint.pt", "--data", FOLDER / "bin", "--pre-tokenized"]
    arguments += ["--model-overrides", "{'scomoe_inference_partition': 'quota'}"]
    # As it was decoded then: by the ratios of training, all lines in the same batches.
    run(module("translate", *arguments, "--input", FOLDER / "source.en", "--output", output))
    assert output.read_text() == (FOLDER / "translation.de").read_text()


@pytest.mark.parametrize(("processes", "interval"), [(1, 1), (2, 3)])
def test_it_trains_on_and_logs_what_it_did(tmp_path, processes, interval):
    done = run(
        [
            *module("train", "--processes", str(processes)),
            *TRAINING,
            *("--log-interval", str(interval), "--save-dir", tmp_path),
        ]
    )
    output = done.stdout + done.stderr
    expected = EXPECTED["train" if interval == 1 else "interval"]
    assert_logged(output, "train_inner", expected)
    # Clusters have learned prices meanwhile, which make them as balanced as training's: they were
    # chosen without, and it cost something.
    for ours, record in zip(logged(output, "valid"), EXPECTED["valid"], strict=True):
        assert float(ours["valid_loss"]) < float(record["valid_loss"])


def logged(output: str, tag: str) -> list[dict]:
    return [
        json.loads(line.partition(f"| {tag} |")[2])
        for line in output.splitlines()
        if f"| {tag} |" in line
    ]


def assert_logged(output: str, tag: str, expected: list[dict]) -> None:
    found = logged(output, tag)
    assert len(found) == len(expected)
    for ours, record in zip(found, expected, strict=True):
        for key, value in record.items():
            if key.endswith("padding"):  # of what a process joins, so it depends on how many ranks
                continue
            # At evaluation counts went ahead even of rows that stay on their rank, 8 bytes each.
            rel = 5e-3 if key.endswith("bytes_rank") else 2e-3
            close = pytest.approx(float(value), rel=rel, abs=1.1e-3)
            assert float(ours[key]) == close, f"{tag}, {key}"
