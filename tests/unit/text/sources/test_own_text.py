"""What the files of one's own text are taken for, and what is read from them."""

import bz2
import gzip
import json
import lzma

import pytest

from user_dir.errors import CorpusError
from user_dir.text.large.parallel_lines import LINES_AT_ONCE
from user_dir.text.pairs import Pair
from user_dir.text.sources.own_text import find_texts

EN_DE = Pair("en", "de")


def read(path, languages=None):
    """(pair, rows) of the only text of a path."""
    (text,) = find_texts([path], "train", languages=languages)
    return text.pair, [
        (source.decode().rstrip("\n"), target.decode().rstrip("\n"))
        for lines in text.read()
        for source, target in zip(*lines.sides, strict=True)
    ]


def message(path, languages=None):
    with pytest.raises(CorpusError) as caught:
        read(path, languages)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "header", "languages", "expected"),
    [
        ("a.de-en.tsv", "", None, Pair("de", "en")),
        ("a.en-pt-BR.tsv", "", None, Pair("en", "pt_BR")),
        ("a.tsv", "", EN_DE, EN_DE),
        ("a.tsv", "en\tde\n", None, EN_DE),
        ("a.tsv", "\ufeffde\ten\r\n", EN_DE, EN_DE),
    ],
)
def test_columns_are_told_by_flags_by_the_name_or_by_the_first_line(
    tmp_path, name, header, languages, expected
):
    path = tmp_path / name
    swapped = header.startswith("\ufeff")
    row = ("zwei", "one") if swapped else ("one", "zwei")
    path.write_text(header + "\t".join(row) + "\n", encoding="utf-8")
    assert read(path, languages) == (expected, [("one", "zwei")])


def test_a_line_with_too_few_columns_is_named(tmp_path):
    path = tmp_path / "a.en-de.tsv"
    path.write_text("a\tb\n" * (LINES_AT_ONCE + 1) + "c\n")
    assert f"line {LINES_AT_ONCE + 2}: has 1 column(s)" in message(path)
    path = tmp_path / "a.tsv"
    path.write_text("a dog\tein Hund\n")
    assert "say with -s and -t" in message(path)


@pytest.mark.parametrize("nested", [True, False])
def test_json_lines_of_two_languages_need_no_flags(tmp_path, nested):
    texts = [{"en": "one", "de": "eins"}, {"de": None, "en": "two"}]
    rows = [{"id": 3, "translation": text} if nested else text for text in texts]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(path) == (EN_DE, [("one", "eins"), ("two", "")])
    assert read(path, EN_DE.reversed())[1][0] == ("eins", "one")
    assert "has en, de; say with -s and -t" in message(path, Pair("en", "fr"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('["en", "de"]', "line 2: not a JSON object"),
        ("{", "line 2: not a JSON object"),
        ('{"translation": {"en": "x", "fr": "y"}}', 'line 2: has no text "de", but en, fr'),
        ('{"translation": {"en": "x", "de": 7}}', 'line 2: has no text "de"'),
    ],
)
def test_a_json_line_of_another_form_is_named(tmp_path, line, said):
    path = tmp_path / "a.json"
    path.write_text('{"translation": {"en": "a", "de": "b"}}\n' + line)
    assert said in message(path)


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_is_read_by_columns(tmp_path, nested):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"en": f"s{n}", "de": None if n == 3 else f"t{n}"} for n in range(LINES_AT_ONCE + 5)]
    table = [{"id": n, "translation": row} if nested else row for n, row in enumerate(rows)]
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(table), path)
    expected = [(row["en"], row["de"] or "") for row in rows]
    assert read(path) == (EN_DE, expected)
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a whole Parquet file" in message(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name, module in ("a.parquet", "pyarrow"), ("a.en-de.tsv.zst", "backports"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        (tmp_path / name).write_bytes(b"")
        assert "install it with: pip install" in message(tmp_path / name)


def zstandard(data):
    return pytest.importorskip("backports.zstd").compress(data)


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstandard)],
)
def test_compressed_files_are_unpacked_and_damage_is_named(tmp_path, ending, compress):
    path = tmp_path / f"a.en-de.tsv.{ending}"
    data = compress("".join(f"a{n * n}\tb{n}\n" for n in range(9000)).encode())
    path.write_bytes(data)
    assert read(path)[1][-1] == ("a80982001", "b8999")
    for broken in data[: len(data) // 2], b"a\tb\n" * 9:
        path.write_bytes(broken)
        assert "damaged, unreadable from about line" in message(path)


def test_a_folder_gives_the_pairs_of_one_set_or_all_if_it_has_no_sets(tmp_path):
    for name in "train.en-de", "train.zh_CN-en", "dev.en-de", "test.en-de":
        first, _, second = name.split(".")[1].partition("-")
        for language in first, second:
            (tmp_path / f"{name}.{language}").write_text("x\n")
    texts = find_texts([tmp_path], "train", languages=None)
    assert {str(text.pair) for text in texts} == {"en-de", "zh_CN-en"}
    (text,) = find_texts([tmp_path], "valid", languages=None)
    assert [path.name for path in text.files] == ["dev.en-de.en", "dev.en-de.de"]
    (text,) = find_texts([tmp_path], "train", languages=Pair("en", "zh_CN"))
    assert text.pair == Pair("zh_CN", "en")
    (tmp_path / "train.en-de.de").unlink()
    assert "train.en-de.en has no partner train.en-de.de" in message(tmp_path)
    other = tmp_path / "opus"
    other.mkdir()
    for prefix in "Books", "News":
        for language in "en", "pt-BR":
            (other / f"{prefix}.en-pt-BR.{language}").write_text("x\n")
    texts = find_texts([other], "train", languages=None)
    assert [str(text.pair) for text in texts] == ["en-pt_BR", "en-pt_BR"]
    (text,) = find_texts([other / "News"], "valid", languages=None)
    assert text.files[0].name == "News.en-pt-BR.en"


def test_a_prefix_stands_for_its_two_files(tmp_path):
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"a\n"))
    (tmp_path / "train.de").write_bytes(b"b\n")
    assert read(tmp_path / "train", EN_DE) == (EN_DE, [("a", "b")])
    assert "no such file" in message(tmp_path / "train")
