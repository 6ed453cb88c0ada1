"""The multilingual task gives ranks their batches too; stock tasks and BLEU in training work."""

import pytest

from tests.support.commands import module, run, train_arguments, updates_of


def without(arguments: list, flag: str, num_values: int) -> list:
    at = arguments.index(flag)
    return arguments[:at] + arguments[at + 1 + num_values :]


def test_multilingual_training_does_not_depend_on_the_processes(small_corpus, tmp_path):
    data = small_corpus / "bin"
    curves, validations = [], []
    for processes in (1, 2):
        arguments = train_arguments(data, tmp_path / str(processes))
        for flag in ("--task", "-s", "-t"):
            arguments = without(arguments, flag, 1)
        extra = [
            *("--task", "scomoe_multilingual_translation", "--lang-pairs", "en-de,de-en"),
            *("--lang-dict", data / "langs.txt", "--encoder-langtok", "tgt"),
            *("--max-update", "4", "--no-save"),
        ]
        done = run([*module("train", "--processes", str(processes)), *arguments, *extra])
        output = done.stdout + done.stderr
        curves.append(updates_of(output))
        validations.append(updates_of(output, tag="valid"))
    assert sorted(curves[0]) == [1, 2, 3, 4]
    for number, record in curves[0].items():
        for key in ("loss", "gnorm", "sample_size"):
            assert curves[1][number][key] == pytest.approx(record[key], abs=1.1e-3)
    expected = validations[0][4]["valid_nll_loss"]
    assert validations[1][4]["valid_nll_loss"] == pytest.approx(expected, abs=1.1e-3)


def test_a_stock_task_trains_on_two_processes(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path)
    arguments[arguments.index("scomoe_translation")] = "translation"
    extra = ["--max-update", "6", "--no-save", "--disable-validation"]
    done = run([*module("train", "--processes", "2"), *arguments, *extra])
    updates = updates_of(done.stdout + done.stderr)
    assert updates[6]["loss"] < updates[1]["loss"]


def test_bleu_in_training_is_that_of_one_process(small_corpus, tmp_path):
    arguments = [*train_arguments(small_corpus / "bin", tmp_path, width=64), "--max-update", "20"]
    extra = [
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 12}', "--seed", "1"),
        # Pieces count as words: a model that knows next to nothing gets some of them right.
        *("--eval-tokenized-bleu", "--lr", "1e-2", "--update-freq", "1", "--no-save"),
    ]
    scores = []
    for processes in ("1", "2"):
        done = run([*module("train", "--processes", processes), *arguments, *extra])
        validations = updates_of(done.stdout + done.stderr, tag="valid")
        scores.append({number: record["valid_bleu"] for number, record in validations.items()})
    assert any(score > 0 for score in scores[0].values())
    assert scores[1] == pytest.approx(scores[0], abs=0.011)


def test_a_run_with_bleu_resumes(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path)
    extra = [
        *("--max-update", "1", "--eval-bleu", "--eval-bleu-remove-bpe", "sentencepiece"),
        *("--eval-bleu-args", '{"beam": 1, "max_len_b": 5}'),
    ]
    done = run([*module("train"), *arguments, *extra])
    assert "valid_bleu" in updates_of(done.stdout + done.stderr, tag="valid")[1]
    # The BLEU meters are in the checkpoint, and the safe loader reads them.
    again = run([*module("train"), *arguments, *extra, "--max-update", "2"])
    assert sorted(updates_of(again.stdout + again.stderr)) == [2]


def test_bleu_of_a_stock_task_is_refused_on_several_processes(small_corpus, tmp_path):
    arguments = train_arguments(small_corpus / "bin", tmp_path)
    arguments[arguments.index("scomoe_translation")] = "translation"
    extra = ["--max-update", "1", "--eval-bleu"]
    refused = run([*module("train", "--processes", "2"), *arguments, *extra], check=False)
    assert refused.returncode != 0
    assert "--task scomoe_translation" in refused.stderr


@pytest.mark.parametrize(
    ("processes", "refused", "message"),
    [
        ("1", ["--max-source-positions", "1"], "none of the 300 sentence pairs can be used"),
        (
            "2",
            ["--fix-batches-to-gpus", "--no-grouped-shuffling"],
            "--fix-batches-to-gpus does not work",
        ),
    ],
)
def test_what_training_would_ignore_is_refused_in_a_sentence(
    small_corpus, tmp_path, processes, refused, message
):
    arguments = [*train_arguments(small_corpus / "bin", tmp_path), "--max-update", "1"]
    command = [*module("train", "--processes", processes), *arguments, *refused]
    done = run([*command, "--disable-validation"], check=False)
    assert done.returncode == 2
    sentences = [
        line for line in done.stderr.splitlines() if line.startswith("scomoe-train: error")
    ]
    assert any(message in line for line in sentences)
    assert not list(tmp_path.glob("*.pt"))
