"""Rows of many directions: by resource, by language, each direction weighing the same."""

from pathlib import Path

import pytest

from user_dir.text.pairs import Pair
from user_dir.text.scoring.score_tables import (
    direction_row,
    language_groups,
    mean_rows,
    pooled_rows,
    resource_groups,
)
from user_dir.text.scoring.tables import format_markdown, format_table, format_tsv
from user_dir.text.scoring.test_sets import TestSet, Translated, count_train_pairs

SENTENCES = ["the cat sat on the mat today", "a dog ran over the green hill", "it rains"]


def translated(name: str, translations: list[str]) -> Translated:
    references = SENTENCES[: len(translations)]
    return Translated(TestSet(Pair(*name.split("-")), references, references), translations)


def test_classes_of_resource_are_those_of_opus_100():
    sizes = {"en-de": 1_000_000, "en-fr": 900_000, "en-af": 899_999, "en-br": 100_000, "en-dz": 624}
    groups = resource_groups({Pair(*name.split("-")): n for name, n in sizes.items()})
    members = [[n for n in sizes if is_member(Pair(*n.split("-")))] for _, is_member in groups]
    assert members == [["en-de", "en-fr"], ["en-af", "en-br"], ["en-dz"]]
    assert resource_groups({Pair("en", "de"): 5, Pair("en", "fr"): 7}) == []


def test_means_weigh_directions_and_pools_weigh_lines():
    perfect = translated("en-de", SENTENCES[:1])
    wrong = translated("de-en", ["nothing", "of it is", "right"])
    rows = [direction_row(perfect), direction_row(wrong)]
    assert [row.name for row in rows] == ["en-de", "de-en"]
    assert rows[0].scores.bleu == pytest.approx(100)
    (mean,) = mean_rows(rows, language_groups("en")[2:])
    assert mean.scores.exact == 50
    assert mean.scores.bleu == pytest.approx((100 + rows[1].scores.bleu) / 2)
    pooled = {row.name: row for row in pooled_rows([perfect, wrong], language_groups("en"))}
    assert pooled["all"].scores.exact == 25
    assert pooled["into en"].scores == rows[1].scores


def test_training_pairs_are_counted_in_either_order(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.de-en.en").write_text("a\nb\nc\n")
    assert count_train_pairs(tmp_path, Pair("en", "de")) == 3
    assert count_train_pairs(tmp_path, Pair("en", "fr")) is None


def test_tables_align_names_left_and_numbers_right():
    header, rows = ("name", "BLEU"), [("en-de", "9.5"), ("x", "31.25")]
    assert format_table(header, rows) == "name    BLEU\nen-de    9.5\nx      31.25"
    assert format_tsv(header, rows) == "name\tBLEU\nen-de\t9.5\nx\t31.25"
    lines = format_markdown(header, rows).splitlines()
    assert lines[1] == "| ----- | ----: |"
    assert lines[3] == "| x     | 31.25 |"
