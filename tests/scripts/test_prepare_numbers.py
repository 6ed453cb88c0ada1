import os

import pytest

from tests.scripts.corpus_commands import read_all, read_side
from user_dir.cli.prepare_numbers import main

SMALL = ["--languages", "de,fr", "--train-pairs-per-language", "60", "--vocab-size", "120"]
SMALL += ["--valid-lines", "8", "--test-lines", "12"]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "numbers"
    assert main(["--out", str(out), *SMALL]) == 0
    return out


def test_english_to_and_from_every_language_is_written(numbers):
    assert (numbers / "bin" / "pairs.txt").read_text() == "en-de,de-en,en-fr,fr-en\n"
    assert (numbers / "bin" / "langs.txt").read_text() == "de\nen\nfr\n"
    for split, size in ("train", 60), ("valid", 2), ("test", 3):
        for pair in "en-de", "en-fr":
            for language in pair.split("-"):
                kept = (numbers / "raw" / f"{split}.{pair}.{language}").read_text("utf-8")
                assert len(kept.splitlines()) == size
                assert read_side(numbers, split, pair, language) == kept.splitlines()


def test_fairseqs_multilingual_task_finds_every_direction(numbers):
    from fairseq import options, tasks

    binary = numbers / "bin"
    arguments = [str(binary), "--task", "translation_multi_simple_epoch"]
    arguments += ["--lang-dict", str(binary / "langs.txt"), "--encoder-langtok", "tgt"]
    arguments += ["--lang-pairs", (binary / "pairs.txt").read_text().strip()]
    parser = options.get_generation_parser(default_task="translation_multi_simple_epoch")
    args = options.parse_args_and_arch(parser, [*arguments, "--path", "none"])
    args.max_source_positions = args.max_target_positions = 1024
    task = tasks.setup_task(args)
    task.load_dataset("test")
    dataset = task.dataset("test")
    assert len(dataset) == 12
    tokens = {task.source_dictionary.string(dataset[i]["source"]).split()[0] for i in range(12)}
    assert tokens == {"__de__", "__en__", "__fr__"}


def test_the_seed_alone_decides(numbers, tmp_path):
    for name, seed in ("same", "1"), ("other", "2"):
        assert main(["--out", str(tmp_path / name), *SMALL, "--seed", seed]) == 0
    assert read_all(tmp_path / "same") == read_all(numbers)
    assert read_all(tmp_path / "other") != read_all(numbers)


def test_a_mistake_is_one_sentence_and_leaves_no_folder(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out"), "--languages", "de,xx"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('prepare_numbers: error: --languages: num2words does not know "xx"')
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_an_output_folder_that_exists_is_refused_at_once(numbers, capsys):
    assert main(["--out", str(numbers)]) == 2
    captured = capsys.readouterr()
    assert "--overwrite" in captured.err and captured.out == ""
