"""`scomoe-compare`: intervals, differences that are none, differences that are some, refusals."""

import json
import random
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from user_dir.cli import compare

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "tree",
    "runs",
    "sits",
    "sees",
    "old",
    "red",
    "green",
    "under",
    "over",
    "near",
    "big",
    "small",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two directions of 120 sentences."""
    rng = random.Random(3)
    raw = tmp_path / "corpus" / "raw"
    raw.mkdir(parents=True)
    for language in "en", "de":
        lines = [" ".join(rng.choices(WORDS, k=rng.randint(6, 14))) for _ in range(120)]
        (raw / f"test.en-de.{language}").write_text("".join(f"{line}\n" for line in lines))
    return raw.parent


def evaluate(corpus: Path, name: str, *, wrong: float, seed: int = 1) -> Path:
    """An evaluation whose translations are the references with a share of other words."""
    rng = random.Random(seed)
    folder = corpus.parent / name
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"corpus": str(corpus), "subset": "test"}))
    for source, target in ("en", "de"), ("de", "en"):
        references = (corpus / "raw" / f"test.en-de.{target}").read_text().split("\n")[:-1]
        lines = [
            " ".join(rng.choice(WORDS) if rng.random() < wrong else word for word in line.split())
            for line in references
        ]
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"test.{source}-{target}.{target}").write_text(text)
    return folder


def run(*arguments) -> int:
    return compare.main([str(argument) for argument in arguments])


def test_what_differs_is_marked_and_what_does_not_is_not(corpus, tmp_path, capsys):
    good = evaluate(corpus, "good", wrong=0.2)
    same = evaluate(corpus, "same", wrong=0.2)
    bad = evaluate(corpus, "bad", wrong=0.5, seed=2)
    out = tmp_path / "table"
    assert run(good, same, bad, "--names", "G,S,B", "--output", out, "--samples", 300) == 0
    record = json.loads((tmp_path / "table.json").read_text())
    assert [one["name"] for one in record] == ["de-en", "en-de", "all"]
    for one in record:
        for metric in "BLEU", "chrF++":
            first, second, third = one["by_metric"][metric]
            assert first["p_value"] is None and first["half_width"] > 0
            assert second["score"] == first["score"] and second["p_value"] > 0.05
            assert third["score"] < first["score"] and third["p_value"] < 0.05
    references = (corpus / "raw" / "test.en-de.de").read_text().split("\n")[:-1]
    translations = (good / "test.en-de.de").read_text().split("\n")[:-1]
    expected = BLEU().corpus_score(translations, [references]).score
    assert record[1]["by_metric"]["BLEU"][0]["score"] == pytest.approx(expected)
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("all"))
    assert row.count("*") == 2 and row.count("±") == 6
    assert (tmp_path / "table.md").read_text().startswith("|")
    assert (tmp_path / "table.tsv").read_text().count("\n") == 4


def test_directions_that_only_one_has_are_left_out_and_named(corpus, capsys):
    first, second = evaluate(corpus, "first", wrong=0.2), evaluate(corpus, "second", wrong=0.3)
    (second / "test.de-en.en").unlink()
    assert run(first, second, "--samples", 50) == 0
    captured = capsys.readouterr()
    assert "left out, for not every evaluation has them: de-en" in captured.err
    assert "de-en" not in captured.out


def test_what_cannot_be_compared_is_refused_by_name(corpus, tmp_path, capsys):
    first, second = evaluate(corpus, "first", wrong=0.2), evaluate(corpus, "second", wrong=0.3)
    assert run(first) == 2
    assert "two or more folders" in capsys.readouterr().err
    assert run(first, second, "--names", "A") == 2
    assert "--names (A): 2 different names" in capsys.readouterr().err
    (second / "test.en-de.de").write_text("")
    assert run(first, second) == 2
    error = capsys.readouterr().err
    assert "second" in error and "has 0 lines" in error and "Traceback" not in error


def test_other_references_are_refused(corpus, tmp_path, capsys):
    first, second = evaluate(corpus, "first", wrong=0.2), evaluate(corpus, "second", wrong=0.3)
    other = tmp_path / "other" / "raw"
    other.mkdir(parents=True)
    for language in "en", "de":
        lines = (corpus / "raw" / f"test.en-de.{language}").read_text()
        (other / f"test.en-de.{language}").write_text(lines.replace("cat", "bird"))
    settings = {"corpus": str(other.parent), "subset": "test"}
    (second / "settings.json").write_text(json.dumps(settings))
    assert run(first, second) == 2
    assert "other references" in capsys.readouterr().err
