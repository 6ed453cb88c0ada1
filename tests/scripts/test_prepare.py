"""One's own text: what `scomoe-prepare` takes, writes and refuses."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from tests.scripts.corpus_commands import SENTENCES, read_all, read_side
from user_dir.cli.prepare import main
from user_dir.text.binarised import read_binarised
from user_dir.text.pairs import Pair
from user_dir.text.scoring.test_sets import read_source_pieces, read_test_set
from user_dir.text.segmentation import load_segmentation

SMALL = ("--vocab-size", "90", "--workers", "1")


def sentences(language: str, count: int, start: int = 0) -> list[str]:
    """Parallel sentences; every third English one is there twice, in two translations."""
    words = SENTENCES[language].split()
    numbers = [n - (n % 3 == 1 and language == "en") for n in range(start, start + count)]
    return [" ".join(words[n % 5 : n % 7 + 6]) + f" {n}" for n in numbers]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """train.{en,de,fr} with 90 lines and dev.{en,de} with 8."""
    folder = tmp_path_factory.mktemp("own")
    for language in SENTENCES:
        write(folder / f"train.{language}", sentences(language, 90))
        write(folder / f"dev.{language}", sentences(language, 8, 200))
    return folder


def prepare(out: Path, *arguments: str | Path) -> int:
    return main([*SMALL, *map(str, arguments), "--out", str(out)])


def lines_of(out: Path, name: str) -> list[str]:
    return (out / "raw" / name).read_text("utf-8").splitlines()


def test_two_files_a_set_become_a_corpus(own, tmp_path, capfd):
    (own / "gaps.en").write_text("kept\n\nkept too\n")
    (own / "gaps.de").write_text("bleibt\nweg\nbleibt auch\n")
    train = ("--train", own / "train.en", own / "train.de")
    valid, test = (own / "dev.de", own / "dev.en"), (own / "gaps.en", own / "gaps.de")
    assert prepare(tmp_path / "out", *train, "--valid", *valid, "--test", *test) == 0
    out, said = tmp_path / "out", capfd.readouterr().out
    assert "en-de, test: dropped 1 empty" in said
    assert (out / "bin/pairs.txt").read_text() == "en-de\n"
    assert lines_of(out, "test.en-de.en") == ["kept", "kept too"]
    assert lines_of(out, "valid.en-de.de") == sentences("de", 8, 200)
    for language in "en", "de":
        assert read_side(out, "train", "en-de", language) == sentences(language, 90)
    before = read_all(out)
    assert prepare(out, *train, "--valid", *valid, "--test", *test) == 0
    assert "nothing to do" in capfd.readouterr().out and read_all(out) == before
    assert prepare(out, *train, "--valid", *valid) == 2
    assert "other settings (sets" in capfd.readouterr().err


def test_what_is_held_out_of_several_pairs_is_trained_in_none(own, tmp_path):
    out = tmp_path / "out"
    pairs = [("--train", own / "train.en", own / f"train.{other}") for other in ("de", "fr")]
    held = ("--valid-lines", "4", "--test-lines", "6")
    assert prepare(out, *pairs[0], *pairs[1], *held) == 0
    assert (out / "bin/pairs.txt").read_text() == "en-de,de-en,en-fr,fr-en\n"
    for pair, other in ("en-de", "de"), ("en-fr", "fr"):
        source, target = (
            {s: lines_of(out, f"{s}.{pair}.{one}") for s in ("train", "valid", "test")}
            for one in ("en", other)
        )
        assert [len(source["valid"]), len(source["test"])] == [4, 6]
        for side in source, target:
            held_out = {*side["valid"], *side["test"]}
            assert len(held_out) == 10 and held_out.isdisjoint(side["train"])
        assert 70 <= len(source["train"]) <= 80
    assert lines_of(out, "test.en-de.en") == lines_of(out, "test.en-fr.en")


def test_what_was_read_is_not_read_again_when_a_later_stage_has_failed(own, tmp_path, capfd):
    train = ("--train", own / "train.en", own / "train.de", "--valid-lines", "5")
    assert prepare(tmp_path / "out", *train, "--vocab-size", "5") == 2
    said = capfd.readouterr()
    assert "text en-de [1 of 1]" in said.out and "--vocab-size (5) is too small" in said.err
    assert prepare(tmp_path / "out", *train, "--vocab-size", "90") == 0
    said = capfd.readouterr().out
    assert "held-out text: 1 of 1 done already" in said and "\ntext: 1 of 1 done already" in said


def test_languages_are_named_as_people_write_them(own, tmp_path, capsys):
    text = [own / "train.en", write(tmp_path / "train.pt-BR", sentences("fr", 90))]
    options = ("--valid-lines", "5", "--directions", "pt-BR-en,en-pt_BR")
    assert prepare(tmp_path / "out", "--train", *text, *options) == 0
    assert (tmp_path / "out/bin/pairs.txt").read_text() == "pt_BR-en,en-pt_BR\n"
    assert (tmp_path / "out/bin/dict.pt_BR.txt").exists()
    flags = ("-s", "eng_Latn", "-t", "pt-BR", "--valid-lines", "500")
    assert prepare(tmp_path / "more", "--train", *text, *flags) == 2  # so far it went
    assert "--valid-lines (500): eng_Latn-pt_BR" in capsys.readouterr().err


def test_text_that_comes_in_parts_and_forms_is_one_text(own, tmp_path):
    """Each half of the training text, the validation and the test set in another form."""
    english, french = (sentences(language, 90) for language in ("en", "fr"))
    rows = [{"translation": {"fr": f, "en": e}} for e, f in zip(english, french, strict=True)]
    with lzma.open(tmp_path / "half.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[:40])
    cells = zip(range(90), french, english, strict=True)
    table = ["number\tfr\ten\tnote", *("\t".join(map(str, (*row, "x"))) for row in cells)]
    write(tmp_path / "half.tsv", [table[0], *table[41:]])
    data = tmp_path / "data"
    for language, lines in ("en", english), ("fr", french):
        write(data / f"dev.en-fr.{language}", lines[:4])
        write(data / f"test.en-fr.{language}", lines[4:9])
    (data / "test.en-fr.fr.gz").write_bytes(gzip.compress((data / "test.en-fr.fr").read_bytes()))
    (data / "test.en-fr.fr").unlink()
    train = ("--train", tmp_path / "half.jsonl.xz", tmp_path / "half.tsv")
    sets = ("--valid", data, "--test", data / "test", "--directions", "en-fr")
    assert prepare(tmp_path / "out", *train, *sets) == 0
    raw = {
        name: lines_of(tmp_path / "out", f"{name}.fr-en.fr") for name in ("train", "valid", "test")
    }
    assert raw == {"train": french, "valid": french[:4], "test": french[4:9]}
    assert read_side(tmp_path / "out", "train", "fr-en", "en") == english


def test_text_is_cut_by_a_model_that_there_is(own, tmp_path, capsys):
    train = ("--train", own / "train.en", own / "train.de", "--valid-lines", "5")
    learned, given = tmp_path / "learned", tmp_path / "given"
    assert prepare(learned, *train) == 0
    more = ("--train", own / "train.en", own / "train.fr", "--valid-lines", "5")
    assert prepare(given, *more, "--spm-model", learned / "spm.model") == 0
    assert (given / "spm.model").read_bytes() == (learned / "spm.model").read_bytes()
    entries = [
        {
            line.rsplit(" ", 1)[0]
            for line in (out / "bin/dict.en.txt").read_text("utf-8").splitlines()
        }
        for out in (learned, given)
    ]
    assert entries[0] == entries[1]
    assert read_side(given, "train", "en-fr", "en") == lines_of(given, "train.en-fr.en")
    assert prepare(tmp_path / "out", *train, "--spm-model", own / "train.en") == 2
    assert "train.en): not a sentencepiece model" in capsys.readouterr().err


def test_text_in_pieces_stays_so_and_is_joined_to_be_scored(own, tmp_path, capsys):
    for language in "en", "de":
        lines = [line.replace("e", "e@@ ").replace("@@  ", " ") for line in sentences(language, 90)]
        write(tmp_path / f"bpe.{language}", [line.removesuffix("@@ ") for line in lines])
    train = ("--train", tmp_path / "bpe.en", tmp_path / "bpe.de", "--valid-lines", "5")
    assert prepare(tmp_path / "out", *train, "--pre-tokenized") == 0
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["bin", "post-process.txt", "raw", "work"]
    assert (out / "post-process.txt").read_text() == "subword_nmt\n"
    assert {*lines_of(out, "train.en-de.de")} < {*sentences("de", 90)}
    assert "ne@@ " in (out / "bin/dict.de.txt").read_text("utf-8")
    # The last word is a number, which training has not seen.
    binarised = list(read_binarised(out / "bin", "valid.en-de.de"))
    assert all(line.endswith(" <unk>") for line in binarised)
    seen = [line.removesuffix("<unk>").replace("@@ ", "") for line in binarised]
    test_set = read_test_set(out, "valid", Pair("de", "en"))
    assert [line.rstrip("0123456789") for line in test_set.sources] == seen
    assert read_source_pieces(out, "valid", test_set.direction, load_segmentation(out)) == binarised


BAD = {
    "a missing file": ("--train train.en nowhere.de", "--train (nowhere.de): no such file"),
    "a folder of other files": ("--train .", "--train (.): the folder holds no train.en-de.en"),
    "three files": ("--train train.en train.de train.fr", "text files come by two"),
    "an unknown kind": ("--train text.docx", "name two text files such as corpus.en corpus.de"),
    "no languages": ("--train a.txt b.txt", "say with -s and -t which they are"),
    "one of -s and -t": ("--train a.txt b.txt -s en", "-s and -t go together"),
    "twice the same": ("--train a.txt b.txt -s pt-BR -t pt_BR", "must be two different languages"),
    "no language": ("--train a.txt b.txt -s en -t 7", "-t (7) must be a language"),
    "no validation text": ("--train train.en train.de", "--valid is missing"),
    "no training text": ("--valid dev.en dev.de", "--train is missing"),
    "a pair without training text": (
        "--train train.en train.de --valid dev.en dev.fr",
        "--valid (dev.en dev.fr): no --train has text in en-fr; there is en-de",
    ),
    "a set that is there already": (
        "--train train.en train.de --valid dev.en dev.de --valid-lines 3",
        "--valid-lines (3): every pair has a --valid set",
    ),
    "a direction without text": (
        "--train train.en train.de --valid dev.en dev.de --directions en-fr",
        'there is no text for "en-fr"; there is en-de',
    ),
    "unequal sides": (
        "--train train.en dev.de --valid dev.en dev.de",
        "train.en has 90 lines but dev.de has 8",
    ),
    "no UTF-8": (
        "--train latin.en latin.de --valid-lines 1",
        "latin.de, line 2: not valid UTF-8 (byte 0xe9",
    ),
    "nothing left": (
        "--train train.en train.de --valid empty.en empty.de",
        "empty.en and empty.de: no pair of sentences is left; 2 empty",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_no_folder(name, own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(own)
    for path in "a.txt", "b.txt", "latin.en", "text.docx":
        write(own / path, ["one", "two"])
    Path("latin.de").write_bytes(b"eins\nzw\xe9i\n")
    for language in "en", "de":
        write(own / f"empty.{language}", ["", " "])
    arguments, message = BAD[name]
    assert prepare(tmp_path / "out", *arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("scomoe-prepare: error:") and said.count("\n") == 1
    assert message in said
    assert os.listdir(tmp_path) == []
