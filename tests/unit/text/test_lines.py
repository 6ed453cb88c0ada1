import gzip

import pytest

from user_dir.errors import CorpusError
from user_dir.text.lines import read_lines, read_parallel


def test_lines_are_read_from_plain_and_gzip_files_with_white_space_collapsed(tmp_path):
    content = "\ufeffA  dog.\r\nTwo\tcats\u2028run. \n\u00e9t\u00e9".encode()
    (tmp_path / "text").write_bytes(content)
    (tmp_path / "text.gz").write_bytes(gzip.compress(content))
    expected = ["A dog.", "Two cats run.", "été"]
    assert read_lines(tmp_path / "text") == expected
    assert read_lines(tmp_path / "text.gz") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\xff\n", "line 2: not valid UTF-8 .byte 0xff at position 4"),
        (b"one\n \t\nthree\n", "line 2: empty"),
        (b"one\n\xe2\x80\x8b\n", "line 2: empty, or nothing but invisible"),
        (b"", "has no lines"),
        (b"one\n\n", "line 2: empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "train.de").write_bytes(content)
    with pytest.raises(CorpusError, match=f"train.de.*{message}"):
        read_lines(tmp_path / "train.de")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"train\.de: no such file"):
        read_lines(tmp_path / "train.de")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_lines(tmp_path)


def test_a_truncated_or_corrupted_gzip_file_is_named_with_its_last_good_line(tmp_path):
    whole = gzip.compress("".join(f"line {i * i}\n" for i in range(20_000)).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in whole[: len(whole) // 2], bytes(flipped), b"no gzip at all\n":
        (tmp_path / "train.de.gz").write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"train.de.gz: damaged gzip file.*line \d+ on"):
            read_lines(tmp_path / "train.de.gz")


def test_unequal_line_counts_name_both_files_and_the_first_line_without_a_partner(tmp_path):
    (tmp_path / "en").write_text("a\nb\nc\n")
    (tmp_path / "de").write_text("a\nb\n")
    with pytest.raises(CorpusError, match=r"en has 3 lines but .*de has 2.*en, line 3, has no"):
        read_parallel([tmp_path / "en", tmp_path / "de"])
