"""Damaged data is named before the first update, through our command and through fairseq's."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.commands import module, run, train_arguments
from tests.support.tasks import TRANSLATION, make_trained_task, multilingual
from user_dir.errors import CorpusError

OURS = module("train")
STOCK = [sys.executable, "-m", "fairseq_cli.train"]
VALIDATE = [sys.executable, "-m", "fairseq_cli.validate"]


@pytest.fixture
def corpus(small_corpus, tmp_path) -> Path:
    """A copy of the small corpus, to be damaged."""
    return Path(shutil.copytree(small_corpus, tmp_path / "corpus"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def shorten(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" + path.read_bytes())


def remove(path: Path) -> None:
    for one in path.parent.glob(f"{path.name.partition('.')[0]}.*.*.*"):
        one.unlink()


@pytest.mark.parametrize(
    ("command", "name", "damage", "message"),
    [
        (OURS, "train.de-en.en.bin", cut, "train.de-en.en.bin is cut off"),
        (STOCK, "valid.de-en.de.idx", cut, "valid.de-en.de.idx is cut off or damaged"),
        (STOCK, "valid.de-en.de.idx", remove, "there is no valid set of these languages in"),
    ],
)
def test_training_ends_with_a_sentence_and_status_2(
    corpus, tmp_path, command, name, damage, message
):
    (path,) = (corpus / "bin").glob(name.replace("de-en", "*"))
    damage(path)
    arguments = train_arguments(corpus / "bin", tmp_path / "save")
    done = run([*command, *arguments, "--max-update", "1"], check=False)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.split("error: ")[0] in ("scomoe-train: ", "fairseq-train: ")
    assert message in last.replace(path.name, name)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "save").glob("*.pt"))


TASKS = {"bilingual": lambda corpus: TRANSLATION, "multilingual": multilingual}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_task_and_split_is_checked(corpus, kind, split):
    task = make_trained_task(corpus, *TASKS[kind](corpus))
    task.load_dataset(split)
    (path,) = (corpus / "bin").glob(f"{split}.*.de.bin")
    cut(path)
    task = make_trained_task(corpus, *TASKS[kind](corpus))
    with pytest.raises(CorpusError, match=rf"{path} is cut off"):
        task.load_dataset(split)


@pytest.mark.parametrize("kind", TASKS)
def test_a_dictionary_shorter_than_the_data_is_named(corpus, kind):
    shorten(corpus / "bin" / "dict.de.txt")
    shutil.copy(corpus / "bin" / "dict.de.txt", corpus / "bin" / "dict.en.txt")
    task = make_trained_task(corpus, *TASKS[kind](corpus))
    with pytest.raises(CorpusError, match=r"\.bin holds the id \d+, but .*dict\.\w\w\.txt has"):
        task.load_dataset("train")


@pytest.mark.parametrize("kind", TASKS)
def test_a_damaged_dictionary_is_named(corpus, kind):
    garble(corpus / "bin" / "dict.en.txt")
    with pytest.raises(CorpusError, match=r"dict\.en\.txt is no dictionary of fairseq"):
        make_trained_task(corpus, *TASKS[kind](corpus))


def test_sides_of_different_length_are_named(corpus):
    data = corpus / "bin"
    for valid in data.glob("valid.*.de.*"):
        shutil.copy(valid, str(valid).replace("valid", "train"))
    task = make_trained_task(corpus, *TRANSLATION)
    with pytest.raises(CorpusError, match=r"train\.\S+\.idx has \d+ sentences, but .*train"):
        task.load_dataset("train")


def test_the_shards_of_later_epochs_are_checked_before_the_first(corpus, tmp_path):
    second = Path(shutil.copytree(corpus / "bin", tmp_path / "second"))
    (path,) = second.glob("train.*.de.idx")
    cut(path)
    for kind in TASKS.values():
        task = make_trained_task(corpus, *kind(corpus), data=f"{corpus / 'bin'}:{second}")
        with pytest.raises(CorpusError, match=f"{path} is cut off"):
            task.load_dataset("train", epoch=1)


def test_validation_checks_its_data(bilingual, tmp_path):
    data = Path(shutil.copytree(bilingual.data, tmp_path / "bin"))
    (path,) = data.glob("valid.*de*.en.bin")
    cut(path)
    task = ("--user-dir", "user_dir", "--task", "scomoe_translation", "-s", "en", "-t", "de")
    options = (*task, "--path", bilingual.checkpoint, "--max-tokens", "100", "--cpu")
    done = run([*VALIDATE, data, *options], check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"fairseq-validate: error: {path} is cut off")
