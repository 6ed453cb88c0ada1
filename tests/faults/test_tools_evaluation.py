"""Evaluation folders, hypotheses and logs that are not as our commands left them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment
from tests.support.trained import Trained
from user_dir.cli import evaluate, report

OURS = ("settings.json", "test.en-de.de", "test.de-en.en")
# What a user may keep beside them; none of it is a translation that the folder's corpus can have.
MINE = (
    "test.en-de.de.bak",
    "test.en-de.de~",
    "test.en-de.txt",
    "test.en-de.en",
    "test.my-notes.txt",
    "test.en-xx.xx",
    "test.en-de-fr.fr",
    "test.-.md",
    "valid.en-de.de",
    "README",
)


@pytest.fixture(scope="module")
def finished(multilingual: Trained, tmp_path_factory) -> Path:
    """An evaluation of two directions."""
    output = tmp_path_factory.mktemp("evaluation") / "out"
    assert run_evaluate(multilingual, output) == 0
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


def run_evaluate(model: Trained, output: Path, *options: str) -> int:
    arguments = ["--path", model.checkpoint, "--corpus", model.corpus, "--output", output, "--cpu"]
    arguments += ["--max-len-b", "20", "--beam", "1", "--directions", "en-de,de-en"]
    return evaluate.main([*map(str, arguments), *options])


def run_report(output: Path, *options: str | Path) -> int:
    return report.main(["--evaluation", str(output), "--examples", "0", *map(str, options)])


def one_error(capsys: pytest.CaptureFixture) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert ": error: " in line
    return line


def directions_counted(output: Path, capsys: pytest.CaptureFixture) -> str:
    assert run_report(output) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("all ")]
    return line.split()[1]


def test_files_beside_translations_are_not_counted_as_directions(output, capsys):
    for name in MINE:
        (output / name).write_text("mine\n", encoding="utf-8")
    (output / "test.de-fr.fr").mkdir()
    assert directions_counted(output, capsys) == "2"


def test_overwriting_leaves_files_beside_translations(multilingual, output):
    for name in MINE:
        (output / name).write_text("mine\n", encoding="utf-8")
    before = {name: (output / name).read_bytes() for name in OURS}
    assert run_evaluate(multilingual, output, "--overwrite", "--lenpen", "0.1") == 0
    for name in MINE:
        assert (output / name).read_text(encoding="utf-8") == "mine\n"
    assert before["settings.json"] != (output / "settings.json").read_bytes()


def test_overwriting_translates_every_direction_anew(multilingual, output):
    for name in OURS[1:]:
        (output / name).write_text("old\n", encoding="utf-8")
    assert run_evaluate(multilingual, output, "--overwrite", "--lenpen", "0.1") == 0
    for name in OURS[1:]:
        assert "old" not in (output / name).read_text(encoding="utf-8").split("\n")


BROKEN_SETTINGS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"corpus": 5, "subset": "test"}',
    b'{"corpus": "x"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", BROKEN_SETTINGS, ids=range(len(BROKEN_SETTINGS)))
def test_damaged_settings_are_named_and_overwriting_mends_them(
    content, multilingual, output, capsys
):
    good = json.loads((output / "settings.json").read_text(encoding="utf-8"))
    (output / "settings.json").write_bytes(content)
    assert run_report(output) == 2
    assert "settings.json is damaged" in one_error(capsys)
    assert run_evaluate(multilingual, output) == 2
    assert "settings.json is damaged" in one_error(capsys)
    assert (output / "test.en-de.de").exists()
    assert run_evaluate(multilingual, output, "--overwrite") == 0
    assert json.loads((output / "settings.json").read_text(encoding="utf-8")) == good


def test_settings_are_the_same_again_whatever_the_overrides_hold(multilingual, output, capsys):
    given = ("--model-overrides", "{'adam_betas': (0.9, 0.98)}", "--overwrite")
    assert run_evaluate(multilingual, output, *given) == 0
    assert run_evaluate(multilingual, output, *given[:2]) == 0
    assert "2 of 2 directions are done already" in capsys.readouterr().out


def test_a_hypothesis_that_is_no_utf8_is_named_by_line(multilingual, output, capsys):
    path = output / "test.en-de.de"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\xe9t\xe9", *lines[2:]]))
    for ended in run_report(output), run_evaluate(multilingual, output):
        assert ended == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.split("error: ")[1] == second.split("error: ")[1]
    assert f"{path}, line 2: not valid UTF-8" in first


@pytest.mark.parametrize("end", [b"\r\n", b" \n", b"\n"])
def test_carriage_returns_and_a_missing_last_end_change_no_score(end, output, capsys):
    assert run_report(output) == 0
    expected = capsys.readouterr().out
    path = output / "test.en-de.de"
    path.write_bytes(path.read_bytes().replace(b"\n", end).removesuffix(b"\n"))
    assert run_report(output) == 0
    assert capsys.readouterr().out == expected


def test_a_corpus_that_is_gone_is_named(multilingual, output, capsys):
    settings = json.loads((output / "settings.json").read_text(encoding="utf-8"))
    (output / "settings.json").write_text(json.dumps({**settings, "corpus": "/nowhere"}))
    assert run_report(output) == 2
    assert "(/nowhere) is not there" in one_error(capsys)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"x", "no sentencepiece")]
)
def test_a_subword_model_that_cannot_be_read_is_named(
    content, reason, multilingual, tmp_path, capsys
):
    corpus = shutil.copytree(multilingual.corpus, tmp_path / "corpus")
    (corpus / "spm.model").unlink()
    if content:
        (corpus / "spm.model").write_bytes(content)
    assert run_evaluate(multilingual, tmp_path / "out", "--corpus", str(corpus)) == 2
    message = one_error(capsys)
    assert "spm.model" in message
    assert reason in message


# Takes the place of Slurm's: the tasks run one after the other.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_JOB_NUM_NODES; task++)); do SLURM_PROCID=$task "$@"; done
"""


def test_nodes_put_their_translations_together_and_nothing_else(multilingual, tmp_path):
    (tmp_path / "srun").write_text(SRUN, encoding="utf-8")
    (tmp_path / "srun").chmod(0o755)
    output = tmp_path / "out"
    for part, name in (0, "test.my-notes.txt"), (5, "test.en-fr.fr"), (5, "settings.json"):
        folder = tmp_path / f"out.part-{part}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("mine\n", encoding="utf-8")
    (tmp_path / "out.part-0" / "settings.json").write_text("{", encoding="utf-8")
    command = ["bash", ROOT / "eval_scripts" / "eval_on_opus.sh", "-d", multilingual.checkpoint]
    command += ["--data", multilingual.corpus, "--output", output, "--cpu", "--beam", "1"]
    command += ["--directions", "en-de,de-en", "--max-len-b", "20", "--overwrite"]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}
    slurm["PATH"] = f"{tmp_path}:{environment()['PATH']}"
    done = subprocess.run(
        command, env={**environment(), **slurm}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = ("scores.json", "scores.md", "scores.tsv", "segments.tsv")
    assert {path.name for path in output.iterdir()} == {*OURS, *results}
    assert "2 of 2 directions are done already" in done.stdout


@pytest.mark.parametrize("blank_lines", [1, 25], ids=["one line", "all lines"])
def test_a_direction_with_lines_of_no_pieces_is_scored(blank_lines, multilingual, tmp_path, capsys):
    corpus = shutil.copytree(multilingual.corpus, tmp_path / "corpus")
    source = corpus / "raw" / "test.en-de.en"
    lines = source.read_text(encoding="utf-8").split("\n")
    # A character that stands for a space in pieces: nothing is left of it.
    lines[:blank_lines] = ["\u2581"] * blank_lines
    source.write_text("\n".join(lines), encoding="utf-8")
    assert run_evaluate(multilingual, tmp_path / "out", "--corpus", str(corpus)) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in scores["directions"]] == ["en-de", "de-en"]
    translated = (tmp_path / "out" / "test.en-de.de").read_text(encoding="utf-8").split("\n")
    assert [line == "" for line in translated] == [i < blank_lines for i in range(25)] + [True]


def inner(**values: object) -> str:
    return f"2026 | INFO | train_inner | {json.dumps(values)}\n"


SIMPLE = "epoch 001:      2 / 8 loss=7.964, wps=70, num_updates=50, wall=12\n"
VALID = "epoch 001 | valid on 'valid' subset | loss 6.962 | num_updates 50\n"
GOOD = inner(num_updates="50", wall="12", wps="70")


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (GOOD + '| train_inner | {"num_updates": "60", "wa', "50 updates in 12 s, 70 tokens/s"),
        (GOOD + "| train_inner | {]}{\n" + "| train_inner | {" * 3, "50 updates in 12 s"),
        (GOOD + inner(num_updates="60"), "60 updates in ? s, 70 tokens/s"),
        (GOOD + inner(num_updates="60", wall="nan", wps="inf"), "60 updates in ? s, 70 tokens/s"),
        (GOOD + inner(num_updates="60", wall=[1], wps=None), "60 updates in ? s, 70 tokens/s"),
        (inner(num_updates="9", wall="3"), "9 updates in 3 s, ? tokens/s"),
        (GOOD + inner(num_updates="nan"), "50 updates in 12 s, 70 tokens/s"),
        ("\x00\ufffd\n" + GOOD, "50 updates in 12 s, 70 tokens/s"),
        (f"2026 | INFO | train_inner | {SIMPLE}", "50 updates in 12 s, 70 tokens/s"),
        # --log-file leaves out what kind of line it is.
        (SIMPLE + VALID, "50 updates in 12 s, 70 tokens/s"),
        (GOOD.partition("train_inner | ")[2], "50 updates in 12 s, 70 tokens/s"),
        (GOOD + '{"epoch": 1, "valid_num_updates": "99"}', "50 updates in 12 s, 70 tokens/s"),
        (SIMPLE + "epoch 001:      4 / 8 loss=7, num_up", "50 updates in 12 s, 70 tokens/s"),
    ],
)
def test_a_damaged_log_shows_what_is_left_of_it(log, shown, output, tmp_path, capsys):
    (tmp_path / "train.log").write_text(log, encoding="utf-8")
    assert run_report(output, "--train-log", tmp_path / "train.log") == 0
    assert f"training: {shown}" in capsys.readouterr().out


@pytest.mark.parametrize("log", ["", "| train_inner | {", inner(wall="1"), inner(num_updates="x")])
def test_a_log_without_any_update_is_named(log, output, tmp_path, capsys):
    path = tmp_path / "train.log"
    path.write_text(log, encoding="utf-8")
    assert run_report(output, "--train-log", path) == 2
    assert f"{path}: no update is logged" in one_error(capsys)
    assert run_report(output, "--train-log", tmp_path) == 2
    assert "cannot be read" in one_error(capsys)
