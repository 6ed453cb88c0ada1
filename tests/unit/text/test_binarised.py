"""Reading what fairseq has binarised, against fairseq's own reader, and naming what is wrong."""

import pytest
import torch
from fairseq.data import Dictionary, data_utils, indexed_dataset

from user_dir.errors import CorpusError
from user_dir.text.binarised import binarised_names, count_binarised, is_binarised, read_binarised

NAME = "test.en-de.de"
LINES = ["▁a b c", "", "▁a <unk> ▁d"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dict.de.txt").write_text("▁a 3\nb 1 #fairseq:overwrite\nc 1\n▁d 0\n", "utf-8")
    dictionary = Dictionary.load(str(tmp_path / "dict.de.txt"))
    builder = indexed_dataset.make_builder(
        f"{tmp_path / NAME}.bin", impl="mmap", vocab_size=len(dictionary)
    )
    for line in LINES:
        builder.add_item(torch.as_tensor(dictionary.encode_line(line, add_if_not_exist=False)))
    builder.finalize(f"{tmp_path / NAME}.idx")
    return tmp_path


def test_the_lines_are_those_that_fairseq_reads(folder):
    assert is_binarised(folder) and not is_binarised(folder.parent)
    assert binarised_names(folder) == [NAME] and count_binarised(folder, NAME) == 3
    dictionary = Dictionary.load(str(folder / "dict.de.txt"))
    side = data_utils.load_indexed_dataset(str(folder / NAME), dictionary)
    assert [dictionary.string(side[n]) for n in range(3)] == LINES
    assert list(read_binarised(folder, NAME)) == LINES


def cut_data(folder):
    path = folder / f"{NAME}.bin"
    path.write_bytes(path.read_bytes()[:-2])


def cut_index(folder):
    path = folder / f"{NAME}.idx"
    path.write_bytes(path.read_bytes()[:30])


def change_format(folder):
    (folder / f"{NAME}.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(40))


def shorten_dictionary(folder):
    (folder / "dict.de.txt").write_text("▁a 3\n", "utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_data, r"\.bin is cut off"),
        (cut_index, r"\.idx is cut off"),
        (change_format, "--dataset-impl mmap"),
        (shorten_dictionary, r"dict\.de\.txt has 5 symbols"),
    ],
)
def test_damage_is_named(folder, damage, said):
    damage(folder)
    with pytest.raises(CorpusError, match=said):
        list(read_binarised(folder, NAME))
