"""WMT'14 English-French from small archives in the published form, whole script and stages."""

import functools
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.scripts.corpus_commands import REPOSITORY, read_all, read_side, run_script
from tests.scripts.large_corpora import BAD, TEST_SIZE, WMT_SIZES, lines, write_tar, write_wmt
from user_dir.cli.prepare_wmt_en_fr import get_parser, main

SCRIPT = "prepare_wmt-en-fr.sh"
SMALL = ("--vocab-size", "400", "--valid-every", "20", "--character-coverage", "1")
TOTAL = sum(WMT_SIZES.values()) + len(BAD) + 2  # and two that the limits drop


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_wmt(tmp_path_factory.mktemp("wmt"))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    done = run_script(SCRIPT, "--raw", str(raw), "--out", str(out), *SMALL, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def prepare(raw, out, *options):
    return main(["--raw", str(raw), "--out", str(out), *SMALL, "--workers", "1", *options])


def corpus(out):
    """The prepared folder without the notes of the stages, which hold times."""
    return {name: data for name, data in read_all(out).items() if not name.startswith("work/")}


def test_the_script_writes_what_fairseq_reads_and_tells_time_and_room(prepared):
    out, said = prepared
    assert sorted(os.listdir(out)) == ["bin", "raw", "spm.model", "spm.vocab", "work"]
    assert re.search(r"text europarl: [\d.]+ s, [\d.]+ kB written, [\d.]+ GB free", said)
    assert "2 empty, 1 not UTF-8" in said
    assert (out / "bin/pairs.txt").read_text() == "en-fr\n"
    assert (out / "bin/lang_dict.txt").read_text() == "en\nfr\n"
    for split in ("train", "valid"):
        kept = (out / f"raw/{split}.en-fr.en").read_text("utf-8").splitlines()
        assert read_side(out, split, "en-fr", "en") == kept
        assert len(read_side(out, split, "en-fr", "fr")) == len(kept)
        assert not any("word word" in line or line == "one" for line in kept)


def test_validation_is_every_nth_line_of_the_archives_together(prepared):
    out, _ = prepared
    kept = (out / "raw/valid.en-fr.en").read_text("utf-8").splitlines()
    published = lines("en", 120)  # Europarl comes first
    expected = [line for number, line in enumerate(published, start=1) if number % 20 == 0]
    assert kept[: len(expected)] == [" ".join(line.split()) for line in expected]
    assert len(kept) <= TOTAL // 20


def test_the_test_set_stays_whole_with_only_the_recipes_change(prepared):
    out, _ = prepared
    source = (out / "raw/test.en-fr.en").read_text("utf-8").splitlines()
    assert len(source) == TEST_SIZE
    assert source[0] == "L'essai & " + " ".join(lines("en", 1, 1000)[0].split())


def test_a_finished_corpus_is_left_alone_even_when_its_archives_are_gone(prepared, tmp_path):
    out, _ = prepared
    before = read_all(out)
    again = run_script(SCRIPT, "--raw", str(tmp_path), "--out", str(out), *SMALL)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert read_all(out) == before


def test_processes_unpacked_archives_and_a_second_run_give_the_same_bytes(
    raw, prepared, tmp_path, capsys
):
    out, _ = prepared
    for archive in raw.glob("*.t*"):
        subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    packed = list(tmp_path.glob("giga-fren.release2.fixed.*.gz"))
    subprocess.run(["gunzip", *map(str, packed)], check=True)
    assert prepare(tmp_path, tmp_path / "again") == 0
    assert corpus(tmp_path / "again") == corpus(out)


def test_a_stage_that_is_broken_is_redone_and_the_finished_ones_are_not(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(raw, out, "--keep-work") == 0
    before = corpus(out)
    (out / "work/stages/bin.json").unlink()  # as if it had been stopped there
    text = next(out.glob("work/pieces/train.en-fr.fr"))
    text.write_bytes(text.read_bytes()[:100])
    capsys.readouterr()
    assert prepare(raw, out, "--keep-work") == 0
    said = capsys.readouterr().out
    assert "text giga: done already" in said and "subwords: done already" in said
    assert "  pieces en-fr [1 of 1]" in said
    assert corpus(out) == before


def test_other_options_are_refused_until_overwrite_redoes_what_they_change(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(raw, out, "--keep-work") == 0
    before = read_all(out)
    assert prepare(raw, out, "--vocab-size", "300") == 2
    assert "prepared with other settings (vocab_size" in capsys.readouterr().err
    assert read_all(out) == before
    assert prepare(raw, out, "--vocab-size", "300", "--overwrite") == 0
    said = capsys.readouterr().out
    assert "text un: done already" in said and "subwords: done already" not in said
    assert len((out / "spm.vocab").read_text("utf-8").splitlines()) == 300


def truncate(folder):
    path = folder / "training-parallel-un.tgz"
    path.write_bytes(path.read_bytes()[:-700])


def truncate_inner(folder):
    path = folder / "training-giga-fren.tar"
    path.write_bytes(path.read_bytes()[:900])


def unequal(folder):
    name = "training/news-commentary-v9.fr-en"
    write_tar(
        folder / "training-parallel-nc-v9.tgz", {f"{name}.en": b"a\nb\n", f"{name}.fr": b"un\n"}
    )


def lacking(folder):
    write_tar(folder / "training-parallel-europarl-v7.tgz", {"training/x": b"a\n"})


def missing(folder):
    (folder / "test-full.tgz").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "training-parallel-un.tgz: damaged or truncated archive"),
        (truncate_inner, "training-giga-fren.tar: damaged or truncated archive"),
        (unequal, "news-commentary-v9.fr-en.en has 2 lines but "),
        (lacking, "training-parallel-europarl-v7.tgz: holds no training/europarl-v7.fr-en.en"),
        (missing, "has no test-full.tgz"),
    ],
)
def test_bad_archives_are_named(tmp_path, capsys, damage, message):
    raw = write_wmt(tmp_path / "raw")
    damage(raw)
    assert prepare(raw, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "bin").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--corpora", "europarl,news"), '"news" is unknown'),
        (("--directions", "en-de"), "there are en-fr and fr-en only"),
        (("--mirror", "http://x"), "--mirror goes with --download"),
        (("--valid-every", "9999"), "--valid-every (9999)"),
    ],
)
def test_bad_options_are_named(raw, tmp_path, capsys, options, message):
    assert prepare(raw, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_something_else_is_never_touched(raw, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert prepare(raw, tmp_path, "--overwrite") == 2
    assert "was not begun by this command" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.fixture
def mirror(raw):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(raw)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def download(mirror, folder, out, *options):
    names = ["--download", "--download-dir", str(folder), "--mirror", mirror, "--out", str(out)]
    return main([*names, *SMALL, "--workers", "1", "--corpora", "europarl,un", *options])


def test_downloads_are_recorded_and_a_change_is_noticed_later(raw, tmp_path, mirror, capsys):
    kept = tmp_path / "kept"
    assert download(mirror, kept, tmp_path / "out") == 0
    archive = kept / "training-parallel-un.tgz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f"{digest}  {archive.name}\n" in (kept / "SHA256SUMS").read_text()
    assert len(os.listdir(kept)) == 4
    archive.write_bytes((raw / "training-parallel-nc-v9.tgz").read_bytes())
    capsys.readouterr()
    assert download(mirror, kept, tmp_path / "new") == 2
    assert f"but {digest} is expected" in capsys.readouterr().err


def test_given_checksums_are_compared(raw, tmp_path, capsys):
    sums = tmp_path / "sums"
    sums.write_text(f"{'0' * 64}  training-parallel-un.tgz\n")
    assert prepare(raw, tmp_path / "out", "--sha256", str(sums)) == 2
    assert f"but {'0' * 64} is expected ({sums})" in capsys.readouterr().err
    sums.write_text("what is this\n")
    assert prepare(raw, tmp_path / "out", "--sha256", str(sums)) == 2
    assert f"{sums}, line 1: not a line of sha256sum" in capsys.readouterr().err


def test_a_terminated_run_leaves_no_worker_and_goes_on_later(raw, prepared, tmp_path):
    code = (
        "import sys, time, user_dir.text.large.encoding as encoding\n"
        "def encode_lines(*_): time.sleep(60)\n"
        "encoding.encode_lines = encode_lines\n"
        "from user_dir.cli.prepare_wmt_en_fr import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    options = ["--raw", str(raw), "--out", str(out), *SMALL, "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    assert any("subwords:" in line for line in process.stdout)
    time.sleep(1)  # the workers start
    assert prepare(raw, out) == 2  # another run is at work there
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert prepare(raw, out) == 0
    assert corpus(out) == corpus(prepared[0])


def test_help_has_an_example_and_names_every_option_of_the_command():
    shown = run_script(SCRIPT, "--help").stdout
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", shown)) - {"--dry-run"}
    known = {flag for action in get_parser()._actions for flag in action.option_strings}
    assert flags == known - {"-h", "--help"}
    example = shown.split("Example:\n")[1].strip()
    get_parser().parse_args(shlex.split(example)[1:])


def test_dry_run_prints_a_command_that_a_shell_can_take(tmp_path):
    shown = run_script(SCRIPT, "--dry-run", "--out", "a b", "--mirror", "$x", cwd=tmp_path)
    words = shlex.split(shown.stdout)
    assert words[-5:] == ["user_dir.cli.prepare_wmt_en_fr", "--out", "a b", "--mirror", "$x"]
    assert not list(tmp_path.iterdir())
