import functools
import gzip
import os
import signal
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.scripts.corpus_commands import (
    REPOSITORY,
    SENTENCES,
    SIZES,
    read_all,
    read_side,
    write_gzip,
    write_multi30k,
)
from user_dir.cli.prepare_multi30k import main

SHARED = REPOSITORY.parent / "shared" / "data" / "multi30k"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_multi30k(tmp_path_factory.mktemp("corpus") / "raw")


def prepare(raw, out, *options, pair="en-de"):
    required = ["--raw", str(raw), "--out", str(out), "--pair", pair]
    return main([*required, "--vocab-size", "80", *options])


def test_a_pair_is_written_as_raw_text_and_as_what_fairseq_reads(raw, tmp_path, capfd):
    assert prepare(raw, tmp_path / "out") == 0
    said = capfd.readouterr().out
    assert "train: 40 of 40 sentence pairs kept" in said and f"wrote {tmp_path / 'out'}" in said
    assert "preprocess.log" not in os.listdir(tmp_path / "out" / "bin")
    assert sorted(os.listdir(tmp_path / "out")) == ["bin", "raw", "spm.model", "spm.vocab"]
    for split, size in zip(("train", "valid", "test"), SIZES.values(), strict=True):
        for language in ("en", "de"):
            kept = (tmp_path / "out" / "raw" / f"{split}.en-de.{language}").read_text("utf-8")
            assert len(kept.splitlines()) == size
            if split == "train":  # held-out text may hold characters that training does not
                expected = kept.splitlines()
                assert read_side(tmp_path / "out", split, "en-de", language) == expected
    assert not list((tmp_path / "out").rglob("*fr*"))


def test_many_directions_share_one_dictionary_and_store_each_pair_once(raw, tmp_path):
    assert prepare(raw, tmp_path / "out", pair="en-de,de-en,en-fr") == 0
    binary = tmp_path / "out" / "bin"
    assert (binary / "pairs.txt").read_text() == "en-de,de-en,en-fr\n"
    assert (binary / "langs.txt").read_text() == "de\nen\nfr\n"
    dictionaries = {(binary / f"dict.{language}.txt").read_text("utf-8") for language in SENTENCES}
    assert len(dictionaries) == 1
    assert not list(binary.glob("*.de-en.*"))
    french = read_side(tmp_path / "out", "train", "en-fr", "fr")
    assert french == (tmp_path / "out/raw/train.en-fr.fr").read_text("utf-8").splitlines()


def test_pairs_may_share_a_target_language(raw, tmp_path):
    assert prepare(raw, tmp_path / "out", pair="en-de,fr-de") == 0
    assert read_side(tmp_path / "out", "train", "fr-de", "de") == read_side(
        tmp_path / "out", "train", "en-de", "de"
    )


def test_the_same_input_gives_the_same_bytes(raw, tmp_path):
    for name in ("first", "second"):
        assert prepare(raw, tmp_path / name) == 0
    assert read_all(tmp_path / "first") == read_all(tmp_path / "second")


def damage_line_count(folder):
    write_gzip(folder / "val.de.gz", "nur eine Zeile\n")


def damage_encoding(folder):
    (folder / "train.de.gz").write_bytes(gzip.compress(b"gut\nschl\xe4cht\n"))


def damage_empty_line(folder):
    write_gzip(folder / "test_2016_flickr.en.gz", "a\nb\n\nd\ne\n")


def damage_empty_file(folder):
    write_gzip(folder / "val.en.gz", "")


def damage_gzip(folder):
    whole = (folder / "train.en.gz").read_bytes()
    (folder / "train.en.gz").write_bytes(whole[: len(whole) // 2])


def remove_file(folder):
    (folder / "train.de.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_file, "train.de.gz: no such file"),
        (damage_line_count, "line 2, has no partner in"),
        (damage_encoding, "train.de.gz, line 2: not valid UTF-8"),
        (damage_empty_line, "test_2016_flickr.en.gz, line 3: empty"),
        (damage_empty_file, "val.en.gz: the file has no lines"),
        (damage_gzip, "train.en.gz: damaged gzip file"),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(tmp_path, capsys, damage, message):
    raw = write_multi30k(tmp_path / "raw")
    damage(raw)
    assert prepare(raw, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("prepare_multi30k: error:") and message in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == ["raw"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--vocab-size", "10"], "--vocab-size (10)"), (["--pair", "ende"], '"ende"')],
)
def test_bad_options_are_named_and_leave_no_folder(raw, tmp_path, capsys, options, message):
    assert prepare(raw, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_existing_corpus_stays_unless_a_complete_one_replaces_it(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(raw, out) == 0
    before = read_all(out)
    assert prepare(raw, out, pair="en-fr") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert prepare(raw, out, "--overwrite", "--vocab-size", "10") == 2
    assert read_all(out) == before
    assert prepare(raw, out, "--overwrite", pair="en-fr") == 0
    assert "raw/test.en-fr.fr" in read_all(out) and "raw/test.en-de.de" not in read_all(out)
    assert os.listdir(tmp_path) == ["out"]


def test_a_terminated_run_removes_its_unfinished_folder(raw, tmp_path):
    code = (
        "import sys, time, user_dir.cli.preparing.large_corpus as common\n"
        "common.encode_files = lambda *_, **__: (print('half way', flush=True), time.sleep(60))\n"
        "from user_dir.cli.prepare_multi30k import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = ["--raw", str(raw), "--out", str(tmp_path / "out"), "--pair", "en-de"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert any("half way" in line for line in process.stdout)
    assert len(os.listdir(tmp_path)) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    process.stdout.close()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def mirror(raw):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(raw)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def download(out, folder, mirror, pair="en-de"):
    options = ["--download", "--download-dir", str(folder), "--mirror", mirror]
    return main([*options, "--out", str(out), "--pair", pair, "--vocab-size", "80"])


def test_downloaded_files_give_the_same_corpus_and_are_kept(raw, tmp_path, mirror, capsys):
    assert prepare(raw, tmp_path / "from-raw") == 0
    assert download(tmp_path / "out", tmp_path / "kept", mirror) == 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "from-raw")
    assert len(os.listdir(tmp_path / "kept")) == 6
    capsys.readouterr()
    assert download(tmp_path / "again", tmp_path / "kept", mirror, pair="en-de,en-fr") == 0
    said = capsys.readouterr().out
    assert said.count("there already") == 6 and said.count(": downloaded") == 3


def test_a_language_that_the_mirror_lacks_is_named(tmp_path, mirror, capsys):
    assert download(tmp_path / "out", tmp_path / "kept", mirror, pair="en-pl") == 2
    assert "train.pl.gz: download failed (HTTP Error 404" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the Multi30k corpus is not on this machine")
def test_the_real_corpus_is_read_completely(tmp_path):
    from user_dir.text.pairs import parse_directions
    from user_dir.text.sources.multi30k import read_multi30k

    corpus = read_multi30k(SHARED, parse_directions("en-de,de-en,cs-fr"))
    counts = {split: len(sides[0]) for (split, _), sides in corpus.texts.items()}
    assert counts == {"train": 29_000, "valid": 1_014, "test": 1_000}
