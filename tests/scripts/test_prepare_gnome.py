import os
import shutil
from pathlib import Path

import pytest

from tests.scripts.corpus_commands import read_all
from user_dir.cli.prepare_gnome import main

PAGE = """<page xmlns="http://projectmallard.org/1.0/" id="p">
  <info><desc>{desc}</desc>{credits}<credit><name>A Name</name></credit></info>
  <!-- a comment -->
  <title>{title}</title>
  <p>{first}</p>
  <steps><item><p>{step}</p></item><item><p>{same}</p></item></steps>
</page>
"""
ENGLISH = {
    "desc": "four thousand",
    "title": "one hundred",
    "first": "Click <gui>one</gui>. Click\n  <gui>two</gui>.",
    "step": "seven. eight.",
    "same": "Alt F4",
}
GERMAN = {
    "desc": "viertausend",
    "title": "einhundert",
    "first": "Klicken Sie <gui>eins</gui>. Klicken Sie <gui>zwei</gui>.",
    "step": "sieben und acht.",
    "same": "Alt F4",
}
CREDIT = '<mal:credit xmlns:mal="http://projectmallard.org/1.0/"><mal:p>Wir</mal:p></mal:credit>'
EXPECTED = {
    ("four thousand", "viertausend"),
    ("one hundred", "einhundert"),
    ("Click one.", "Klicken Sie eins."),
    ("Click two.", "Klicken Sie zwei."),
    ("seven. eight.", "sieben und acht."),
}


@pytest.fixture
def raw(tmp_path):
    for name, texts, credit in ("C", ENGLISH, ""), ("de", GERMAN, CREDIT):
        folder = tmp_path / "help" / name / "gnome-help"
        folder.mkdir(parents=True)
        page = PAGE.format(credits=credit, **texts)
        (folder / "one.page").write_text(page, encoding="utf-8")
    (tmp_path / "help" / "C" / "gnome-help" / "two.page").write_text(
        PAGE, encoding="utf-8"
    )  # in English alone
    return tmp_path / "help"


def prepare(corpus: Path, raw: Path, out: Path, *options: str) -> int:
    return main(["--like", str(corpus), "--raw", str(raw), "--out", str(out), *options])


def test_texts_are_aligned_by_their_place_in_a_page(three_languages, raw, tmp_path, capfd):
    assert prepare(three_languages, raw, tmp_path / "out") == 0
    files = read_all(tmp_path / "out")
    sides = [files[f"raw/test.en-de.{one}"].decode().splitlines() for one in ("en", "de")]
    assert set(zip(*sides, strict=True)) == EXPECTED
    assert len(sides[0]) == len(EXPECTED)
    assert files["bin/pairs.txt"] == b"en-de,de-en\n"  # no French
    for name in "spm.model", "bin/dict.de.txt":
        assert files[name] == (three_languages / name).read_bytes()
    assert "en-de: 5 sentence pairs" in capfd.readouterr().out
    assert prepare(three_languages, raw, tmp_path / "few", "--max-pairs", "2") == 0
    assert len(read_all(tmp_path / "few")["raw/test.en-de.de"].splitlines()) == 2


def remove_english(raw):
    shutil.rmtree(raw / "C")


def cut_page(raw):
    page = raw / "de" / "gnome-help" / "one.page"
    page.write_bytes(page.read_bytes()[:200])


def untranslated(raw):
    shutil.copytree(raw / "C", raw / "de", dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (remove_english, [], "holds no C/gnome-help"),
        (cut_page, [], "one.page: cannot be read"),
        (untranslated, [], "nothing is translated of en-de"),
        (None, ["--directions", "en-fr"], '"fr"'),
        (None, ["--directions", "de-C"], '"C"'),
        (None, ["--like", "nowhere"], "--like (nowhere)"),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(
    three_languages, raw, tmp_path, capsys, damage, options, message
):
    if damage:
        damage(raw)
    assert prepare(three_languages, raw, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == ["help"]
