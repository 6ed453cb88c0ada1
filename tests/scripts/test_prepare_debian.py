import bz2
import functools
import hashlib
import lzma
import os
import random
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.scripts.corpus_commands import read_all, read_side
from user_dir.cli.prepare_debian import main
from user_dir.errors import CorpusError
from user_dir.text.sources.apt import fetch_lists
from user_dir.text.sources.debian import (
    DebianPlan,
    choose_directions,
    read_many_way,
    split_debian,
)
from user_dir.text.sources.debian_lists import find_lists
from user_dir.text.splits import Groups, unite_near_duplicates

LANGUAGES = ("de", "fr", "pt_BR")
# The ends of the words of each language, and a sentence that many descriptions share.
ENDS = {"en": "", "de": "en", "fr": "ée", "pt_BR": "ão"}
SHARED = {
    "en": "There are files.",
    "de": "Es gibt Dateien.",
    "fr": "Il y a des fichiers.",
    "pt_BR": "Existem arquivos.",
}
SYLLABLES = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo"]


def description(number, language):
    """A package's title and text in made-up words, the same in all languages but for their ends."""
    draw = random.Random(number)
    words = ["".join(draw.choices(SYLLABLES, k=3)) + ENDS[language] for _ in range(9)]
    shared = f" {SHARED[language]}" if number % 10 == 0 else ""
    return (
        f"Package: p{number}\nDescription-md5: {number:032x}\n"
        f"Description-{language}: {' '.join(words[:4])}\n {' '.join(words[4:])}.{shared}\n\n"
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The lists of English and three languages; German has half of the packages."""
    folder = tmp_path_factory.mktemp("debian") / "main" / "i18n"
    folder.mkdir(parents=True)
    for language in ("en", *LANGUAGES):
        numbers = range(0, 120, 2 if language == "de" else 1)
        text = "".join(description(number, language) for number in numbers).encode()
        if language == "en":
            (folder / "Translation-en.xz").write_bytes(lzma.compress(text))
        else:
            (folder / f"Translation-{language}.bz2").write_bytes(bz2.compress(text))
    esperanto = description(1, "de").replace("Description-de", "Description-eo").encode()
    (folder / "Translation-eo.bz2").write_bytes(bz2.compress(esperanto))
    return folder.parents[1]


def prepare(out, *options):
    sizes = ["--test-sentences", "8", "--valid-sentences", "4", "--least-languages", "2"]
    small = [*sizes, "--min-sentences", "20", "--vocab-size", "120"]
    return main(["--out", str(out), *small, *options])


def lines(out, split, pair, language):
    return (out / "raw" / f"{split}.{pair}.{language}").read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "debian"
    assert prepare(out, "--raw", str(raw)) == 0
    return out


def test_every_language_goes_both_ways_with_english(prepared):
    pairs = (prepared / "bin" / "pairs.txt").read_text().strip().split(",")
    assert pairs == ["en-de", "de-en", "en-fr", "fr-en", "en-pt_BR", "pt_BR-en"]
    for split in "train", "valid", "test":
        for language in LANGUAGES:
            pair = f"en-{language}"
            assert len(lines(prepared, split, pair, "en")) == len(
                lines(prepared, split, pair, language)
            )
    train = lines(prepared, "train", "en-fr", "fr")
    assert read_side(prepared, "train", "en-fr", "fr") == train
    assert SHARED["fr"] in train


def test_a_held_out_sentence_and_its_near_duplicates_are_trained_in_no_language(prepared):
    trained = {line for one in LANGUAGES for line in lines(prepared, "train", f"en-{one}", "en")}
    for split, size in ("test", 8), ("valid", 4):
        held = {line for one in LANGUAGES for line in lines(prepared, split, f"en-{one}", "en")}
        assert len(held) == size
        for line in held:
            texts = [line, *trained]
            groups = Groups(len(texts))
            unite_near_duplicates(groups, texts)
            assert groups.sizes()[groups.of(0)] == 1
    many_way = [lines(prepared, "test", f"en-{one}", "en") for one in LANGUAGES]
    assert many_way[1] == many_way[2] and set(many_way[0]) <= set(many_way[1])


def test_directions_and_caps_change_training_and_leave_the_test_set(raw, prepared, tmp_path, capfd):
    options = ["--directions", "fr-en,de-fr", "--max-pairs", "30"]
    assert prepare(tmp_path / "out", "--raw", str(raw), *options) == 0
    said = capfd.readouterr().out
    assert "left out: " in said and "pt_BR" in said
    assert len(lines(tmp_path / "out", "train", "fr-en", "fr")) == 30
    test = lines(tmp_path / "out", "test", "fr-en", "en")
    assert test == lines(prepared, "test", "en-fr", "en")
    assert set(lines(tmp_path / "out", "test", "de-fr", "de")) <= set(
        lines(prepared, "test", "en-de", "de")
    )


@pytest.fixture
def mirror(raw, tmp_path):
    """A mirror of one suite, which names its files' checksums as Debian does."""
    home = tmp_path / "mirror" / "dists" / "stable"
    shutil.copytree(raw, home)
    write_release(home)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", home
    server.shutdown()
    thread.join()
    server.server_close()


def write_release(home):
    named = [(path, path.relative_to(home).as_posix()) for path in home.rglob("Translation-*")]
    rows = [
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size:8} {name}\n"
        for path, name in named
    ]
    (home / "InRelease").write_text("Suite: stable\nSHA256:\n" + "".join(rows))


def test_a_mirror_gives_the_same_corpus_and_changed_lists_are_fetched_again(
    prepared, mirror, tmp_path, capfd
):
    url, home = mirror
    kept = ["--mirror", url, "--download-dir", str(tmp_path / "kept")]
    # Esperanto's list is kept, and changes nothing for those who do not ask for it.
    assert prepare(tmp_path / "never", *kept, "--directions", "en-eo") == 2
    capfd.readouterr()
    assert prepare(tmp_path / "out", *kept) == 0
    assert read_all(tmp_path / "out") == read_all(prepared)
    assert "in 4 languages" in capfd.readouterr().out
    changed = home / "main" / "i18n" / "Translation-fr.bz2"
    changed.write_bytes(bz2.compress(bz2.decompress(changed.read_bytes())[:-400]))
    write_release(home)
    assert prepare(tmp_path / "again", *kept) == 0
    said = capfd.readouterr().out
    assert said.count("there already") == 3
    assert "Translation-fr.bz2: downloaded" in said
    assert prepare(tmp_path / "never", *kept, "--components", "contrib") == 2
    assert "no translated package descriptions in contrib" in capfd.readouterr().err
    (home / "main" / "i18n" / "Translation-de.bz2").write_bytes(b"other bytes")
    shutil.rmtree(tmp_path / "kept")
    assert prepare(tmp_path / "never", *kept) == 2
    assert "Translation-de.bz2: its checksum is not" in capfd.readouterr().err
    assert not (tmp_path / "never").exists()


def remove_english(folder):
    (folder / "main" / "i18n" / "Translation-en.xz").unlink()


def cut_german(folder):
    path = folder / "main" / "i18n" / "Translation-de.bz2"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (remove_english, [], "no Translation-en"),
        (cut_german, [], "Translation-de.bz2: unreadable from about line"),
        (None, ["--directions", "en-xx"], '"xx"'),
        (None, ["--directions", "en-eo"], "no sentence of en-eo"),
        (None, ["--test-sentences", "999"], "--test-sentences (999)"),
        (None, ["--min-sentences", "9999"], "--min-sentences (9999)"),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(raw, tmp_path, capsys, damage, options, message):
    shutil.copytree(raw, tmp_path / "raw")
    if damage:
        damage(tmp_path / "raw")
    assert prepare(tmp_path / "out", "--raw", str(tmp_path / "raw"), *options) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == ["raw"]


def test_without_apt_the_other_ways_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prepare(tmp_path / "out", "--download-dir", str(tmp_path / "kept")) == 2
    assert "--mirror" in capsys.readouterr().err


def test_apt_without_packages_says_why(tmp_path, capsys, monkeypatch):
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'W: no such host' >&2\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert prepare(tmp_path / "out", "--download-dir", str(tmp_path / "kept")) == 2
    assert "W: no such host" in capsys.readouterr().err


def test_the_real_descriptions_are_aligned(tmp_path):
    try:
        place = fetch_lists(tmp_path, languages=["cs", "es"], otherwise="")
    except CorpusError as error:
        pytest.skip(f"apt has no mirror with package descriptions here: {error}")
    texts = read_many_way(find_lists(place))
    sentence = "This package contains the shared library."
    assert "Este paquete contiene la biblioteca compartida." in texts["es"][sentence]
    assert "Tento balíček obsahuje sdílenou knihovnu." in texts["cs"][sentence]
    directions = choose_directions("all", texts, min_sentences=5000)
    assert "en-cs" in map(str, directions) and "en-es" in map(str, directions)
    plan = DebianPlan(
        test_sentences=300, valid_sentences=50, least_languages=2, max_pairs=4000, seed=1
    )
    corpus = split_debian(texts, directions, plan)
    for pair in corpus.pairs:
        sizes = [len(corpus.texts[split, pair][0]) for split in ("train", "valid", "test")]
        assert sizes == [4000, 50, 300]
