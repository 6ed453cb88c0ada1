"""Streams that are closed, full or ASCII, and names that a program may misread."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment, module
from tests.support.trained import Trained
from user_dir.cli import evaluate, translate
from user_dir.translation.options import checkpoint_paths

# Signs that separate names elsewhere, and a byte that is no UTF-8.
ODD = os.fsdecode(b"-o d,d: \xff")


def shell(command: Sequence[str | Path], redirections: str, **variables: str):
    """Run a command of ours with redirections of bash."""
    script = f'"$@" {redirections}; echo "${{PIPESTATUS[*]}}" >&9'
    reading, writing = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f"exec 9>&{writing}; {script}", "bash", *map(os.fspath, command)],
        cwd=ROOT,
        env={**environment(), **variables},
        capture_output=True,
        timeout=120,
        pass_fds=[writing],
    )
    os.close(writing)
    with os.fdopen(reading) as file:
        statuses = [int(status) for status in file.read().split()]
    return statuses[0], done.stdout.decode("utf-8", "replace"), done.stderr.decode()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.txt"
    path.write_text("one hundred\nseven\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def evaluation(multilingual: Trained, tmp_path_factory) -> Path:
    """An evaluation in French, whose words are not all ASCII."""
    output = tmp_path_factory.mktemp("evaluation") / "out"
    arguments = ["--path", multilingual.checkpoint, "--corpus", multilingual.corpus, "--cpu"]
    arguments += ["--output", output, "--directions", "en-fr", "--beam", "1", "--max-len-b", "9"]
    assert evaluate.main(list(map(str, arguments))) == 0
    path = output / "test.en-fr.fr"
    path.write_text(path.read_text(encoding="utf-8").replace("e", "é"), encoding="utf-8")
    return output


def one_error(errors: str) -> str:
    (line,) = errors.splitlines()
    assert ": error: " in line
    return line


def test_a_closed_input_or_output_is_a_sentence(bilingual, source):
    command = module("translate", "--cpu", "--path", bilingual.checkpoint)
    status, _, errors = shell(command, "<&-")
    assert status == 2
    assert "standard input is closed" in one_error(errors)
    status, _, errors = shell([*command, "--input", source], ">&-")
    assert status == 2
    assert "standard output is closed" in one_error(errors)


def test_nothing_lands_in_a_file_that_took_the_place_of_a_closed_stream(
    bilingual, source, tmp_path
):
    command = module("translate", "--cpu", "--path", bilingual.checkpoint, "--input", source)
    status, expected, _ = shell(command, "")
    assert status == 0
    output = ("--output", tmp_path / "out", "--progress", "--processes", "2", "--max-tokens", "3")
    status, out, errors = shell([*command, *output], "<&- >&- 2>&-")
    assert (status, out, errors) == (0, "", "")
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected
    status, out, errors = shell([*command, "--progress"], "2>&-")
    assert (status, out, errors) == (0, expected, "")


def test_a_reader_that_has_gone_ends_it_in_silence(evaluation):
    command = module("report", "--evaluation", evaluation, "--examples", "20000")
    status, out, errors = shell(command, "| head -1")
    assert status == 141
    assert len(out.splitlines()) == 1
    assert errors == ""


def test_a_full_disk_behind_standard_output_is_a_sentence(bilingual, source):
    command = module("translate", "--cpu", "--path", bilingual.checkpoint, "--input", source)
    status, _, errors = shell(command, "> /dev/full")
    assert status == 2
    assert "No space left on device" in one_error(errors)


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("variables", ASCII, ids=["stream", "locale"])
def test_a_report_on_an_ascii_terminal_shows_other_signs_by_their_number(evaluation, variables):
    command = module("report", "--evaluation", evaluation, "--examples", "2")
    status, out, errors = shell(command, "", **variables)
    assert (status, errors) == (0, "")
    assert r"\xe9" in out
    assert out.isascii()


@pytest.mark.parametrize("variables", ASCII, ids=["stream", "locale"])
def test_translations_are_utf8_whatever_the_terminal_is(bilingual, source, variables):
    command = module("translate", "--cpu", "--path", bilingual.checkpoint, "--input", source)
    assert shell(command, "", **variables)[:2] == shell(command, "")[:2]


@pytest.mark.parametrize("variables", ASCII, ids=["stream", "locale"])
def test_a_corpus_is_prepared_into_any_folder(tmp_path, variables):
    out = tmp_path / f"{ODD} é"
    options = ["--languages", "de", "--train-pairs-per-language", "50", "--max-digits", "3"]
    options += ["--valid-lines", "4", "--test-lines", "4", "--vocab-size", "100"]
    status, _, errors = shell(module("prepare_numbers", "--out", out, *options), "", **variables)
    assert (status, errors) == (0, "")
    assert (out / "bin" / "train.en-de.en.bin").is_file()


def test_any_name_can_be_translated_with_and_from_and_into(bilingual, source, tmp_path):
    odd = tmp_path / ODD
    odd.mkdir()
    checkpoint, text = odd / f"{ODD}.pt", odd / f"{ODD}.txt"
    shutil.copyfile(bilingual.checkpoint, checkpoint)
    shutil.copyfile(source, text)
    corpus = shutil.copytree(bilingual.corpus, odd / ODD)
    expected = tmp_path / "expected"
    arguments = ["--cpu", "--path", bilingual.checkpoint, "--input", source, "--output", expected]
    assert translate.main(list(map(str, arguments))) == 0
    for path, data in (checkpoint, corpus / "bin"), (f"{checkpoint}:{checkpoint}", corpus / "bin"):
        arguments = ["--cpu", "--path", path, "--data", data, "--input", text]
        arguments += ["--output", odd / f"{ODD}.out"]
        assert translate.main(list(map(str, arguments))) == 0
        assert (odd / f"{ODD}.out").read_bytes() == expected.read_bytes()


def test_names_that_begin_with_a_dash_are_taken_after_an_equals_sign(bilingual, source, tmp_path):
    shutil.copyfile(bilingual.checkpoint, tmp_path / "-x.pt")
    shutil.copyfile(source, tmp_path / "-in")
    command = module("translate", "--cpu", "--path=-x.pt", "--input=-in", "--output=-out")
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, timeout=120)
    assert (tmp_path / "-out").read_bytes().count(b"\n") == 2


def test_an_evaluation_script_takes_any_names(multilingual, tmp_path):
    (tmp_path / ODD).mkdir()
    shutil.copyfile(multilingual.checkpoint, tmp_path / ODD / "checkpoint_best.pt")
    shutil.copytree(multilingual.corpus, tmp_path / f"{ODD}c")
    command = ["bash", ROOT / "eval_scripts" / "eval_on_opus.sh", "-d", ODD, "--data", f"{ODD}c"]
    command += ["--output", f"{ODD}e", "--cpu", "--beam", "1", "--max-len-b", "9"]
    done = subprocess.run(
        [*command, "--directions", "en-de"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / f"{ODD}e" / "test.en-de.de").is_file()
    command = module("report", "--evaluation", tmp_path / f"{ODD}e")
    status, _, errors = shell(command, "")
    assert (status, errors) == (0, "")


def test_an_existing_checkpoint_is_taken_by_its_whole_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "a", "a:b", "c", "b:c":
        Path(name).touch()
    expected = {
        "a": ["a"],
        "a:b": ["a:b"],
        "a:c": ["a", "c"],
        "a:b:c": ["a:b", "c"],
        "c:b:c:a:b": ["c", "b:c", "a:b"],
        "x:a:y:b:c": ["x", "a", "y", "b:c"],
    }
    for text, paths in expected.items():
        assert list(checkpoint_paths(text)) == paths
