"""Pieces become the files that fairseq-preprocess writes, whoever of the workers survives."""

import os
import signal
from pathlib import Path

import pytest

from user_dir.errors import UserError
from user_dir.text.large import binarising
from user_dir.text.large.binarising import binarise_text

LINES = ["▁a b c", "", "b  b", "unknown a", "<s> <pad> </s> <unk> a", "c\u00a0a\u2028b", "▁a " * 40]


def written(prefix: Path) -> list[bytes]:
    return [prefix.with_name(f"{prefix.name}.{end}").read_bytes() for end in ("bin", "idx")]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "train.x"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


def dictionary_of(folder: Path, *, more: int = 0) -> Path:
    path = folder / "dict.txt"
    lines = ["▁a 7", "b 3", "c 2", *(f"piece{number} 0" for number in range(more))]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("more", [0, 65492, 65493])  # ids of two bytes, and from 65500 on of four
def test_the_files_are_those_of_fairseq_preprocess(more, text, tmp_path):
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary

    dictionary = dictionary_of(tmp_path, more=more)
    symbols = Dictionary.load(str(dictionary))
    binarizer = VocabularyDatasetBinarizer(symbols)
    FileBinarizer.multiprocess_dataset(
        str(text), "mmap", binarizer, str(tmp_path / "theirs"), vocab_size=len(symbols)
    )
    binarise_text(text, dictionary, tmp_path / "ours")
    assert written(tmp_path / "ours") == written(tmp_path / "theirs")


def test_workers_do_not_change_the_files(text, tmp_path, monkeypatch):
    dictionary = dictionary_of(tmp_path)
    binarise_text(text, dictionary, tmp_path / "one")
    monkeypatch.setattr(binarising, "LINES_AT_ONCE", 2)
    binarise_text(text, dictionary, tmp_path / "two", workers=2)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(30)
def test_a_killed_worker_ends_the_work_with_a_sentence(text, tmp_path, monkeypatch):
    monkeypatch.setattr(binarising, "_ids_of", _killed)
    with pytest.raises(UserError, match="a worker process was killed, perhaps for want of memory"):
        binarise_text(text, dictionary_of(tmp_path), tmp_path / "out", workers=2)
