"""Damaged binarised text is named before anything reads it."""

import struct

import numpy as np
import pytest
import torch

from user_dir.errors import CorpusError
from user_dir.text.binarised_files import check_binarised

SENTENCES = ([4, 5, 2], [9, 2], [6, 7, 8, 2])


@pytest.fixture
def side(tmp_path):
    """The files of one side, written as fairseq does."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    builder = MMapIndexedDatasetBuilder(f"{tmp_path}/train.en-de.en.bin", dtype=np.uint16)
    for sentence in SENTENCES:
        builder.add_item(torch.tensor(sentence))
    builder.finalize(f"{tmp_path}/train.en-de.en.idx")
    return tmp_path / "train.en-de.en"


def check(side, num_symbols=10):
    return check_binarised(side, num_symbols=num_symbols, dictionary="dict.en.txt")


def file_of(side, end):
    return side.with_name(f"{side.name}.{end}")


def test_whole_files_pass_and_are_counted(side):
    assert len(check(side)) == 3


def cut(data):
    return data[:-1]


def put(at, layout, value):
    """Another number at some byte."""

    def change(data):
        return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]

    return change


SIZES, STARTS = 26, 26 + 3 * 4


@pytest.mark.parametrize(
    ("end", "change", "message"),
    [
        ("idx", cut, r"en\.idx is cut off or damaged: it has 61 bytes, but .* 3 sentences has 62"),
        ("idx", lambda data: b"", r"en\.idx is empty"),
        ("idx", lambda data: data[:12], r"en\.idx is no index"),
        ("idx", lambda data: b"x" + data[1:], r"en\.idx is no index"),
        ("idx", put(9, "<Q", 7), r"en\.idx is damaged: version 7"),
        ("idx", put(17, "<B", 99), r"en\.idx is damaged: .*type of ids 99"),
        ("idx", put(18, "<Q", 1 << 60), r"en\.idx is cut off or damaged"),
        ("idx", put(SIZES + 4, "<i", -1), r"en\.idx is damaged: sentence 2 has -1 ids"),
        ("idx", put(SIZES + 4, "<i", 1 << 30), r"en\.idx damaged.* sentence 2 has 1073741824"),
        ("idx", put(STARTS + 16, "<q", -8), r"en\.idx is damaged: sentence 3 .* byte -8"),
        ("idx", put(STARTS + 16, "<q", (1 << 63) - 1), r"en\.idx damaged.* sentence 3"),
        ("idx", put(STARTS + 16, "<q", 12), r"en\.idx damaged: it has 18 bytes, but sentence 3"),
        ("bin", cut, r"en\.bin is cut off.*it has 17 bytes, but sentence 3 has 4 ids from byte 10"),
        ("bin", lambda data: b"", r"en\.bin is cut off"),
        ("bin", put(6, "<H", 10), r"en\.bin holds the id 10, but dict\.en\.txt has 10 symbols"),
    ],
)
def test_what_is_damaged_is_named(side, end, change, message):
    path = file_of(side, end)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorpusError, match=message):
        check(side)


@pytest.mark.parametrize(("end", "other"), [("idx", "bin"), ("bin", "idx")])
def test_half_a_side_is_named(side, end, other):
    file_of(side, end).unlink()
    with pytest.raises(CorpusError, match=rf"en\.{end} is missing, but .*en\.{other} is there"):
        check(side)


def test_other_formats_of_fairseq_are_left_to_it(side):
    path = file_of(side, "idx")
    path.write_bytes(b"TNTIDX\x00\x00" + bytes(60))
    assert check(side) is None
