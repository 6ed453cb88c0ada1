"""The library, and the command as a stream: lines in order, scores, any direction, one loading."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment, module, run
from tests.support.trained import Trained
from user_dir.cli import translate
from user_dir.errors import UserError
from user_dir.translation import Translator


def lines_of(model: Trained, pair: str, language: str) -> list[str]:
    return model.raw(pair, language).read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def translator(multilingual: Trained) -> Translator:
    return Translator.load(multilingual.checkpoint, cpu=True, max_len_b=30)


def command(model: Trained, folder: Path, *options: str) -> list[str]:
    """What scomoe-translate writes."""
    output = folder / "output.txt"
    arguments = ["--path", str(model.checkpoint), "--output", str(output), "--cpu"]
    assert translate.main([*arguments, "--max-len-b", "30", *options]) == 0
    return output.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.parametrize("direction", ["en-de", "fr-en", "de-fr"])
def test_a_program_gets_what_the_command_writes_in_any_direction(
    multilingual: Trained, translator: Translator, tmp_path: Path, direction: str
) -> None:
    source, target = direction.split("-")
    lines = lines_of(multilingual, "en-de" if source == "de" else "en-fr", source)[:8]
    given = tmp_path / "input.txt"
    given.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    languages = ("-s", source, "-t", target)
    expected = command(multilingual, tmp_path, "--input", str(given), *languages)
    assert translator.translate(lines, source=source, target=target) == expected
    assert len(set(expected)) > 1


def test_hypotheses_and_scores_are_those_of_fairseq_generate(
    bilingual: Trained, tmp_path: Path
) -> None:
    generate = [sys.executable, "-m", "fairseq_cli.generate", bilingual.data, "--cpu"]
    generate += ["--user-dir", "user_dir", "--task", "scomoe_translation", "-s", "en", "-t", "de"]
    generate += ["--path", bilingual.checkpoint, "--required-batch-size-multiple", "1"]
    generate += ["--post-process", "sentencepiece", "--beam", "4", "--nbest", "3"]
    rows = [row.split("\t") for row in run(generate).stdout.splitlines() if row.startswith("D-")]
    expected = sorted(
        ((int(row[0][2:]) + 1, float(row[1]), row[2]) for row in rows), key=lambda row: row[0]
    )
    options = ("--input", str(bilingual.raw("en-de", "en")), "--beam", "4", "--max-len-b", "200")
    written = command(bilingual, tmp_path, *options, "--nbest", "3", "--scores")
    assert len(written) == len(expected) == 75
    for line, (number, score, text) in zip(written, expected, strict=True):
        theirs = line.split("\t")
        assert (int(theirs[0]), theirs[2]) == (number, text)
        assert float(theirs[1]) == pytest.approx(score, abs=2e-4)
    scored = command(bilingual, tmp_path, *options, "--scores")
    assert scored == [line.partition("\t")[2] for line in written[::3]]


def test_no_more_is_read_than_the_buffer_holds(translator: Translator) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "" if read == 2 else "one hundred"

    stream = translator.stream(endless(), source="en", target="de", buffer=3)
    for number in range(1, 8):
        translation = next(stream)
        assert (translation.text == "") == (number == 2)
        assert read == -(-number // 3) * 3


def test_workers_give_the_same_lines_after_a_stream_was_left_as_well(
    bilingual: Trained, translator: Translator
) -> None:
    lines = lines_of(bilingual, "en-de", "en")
    alone = Translator.load(bilingual.checkpoint, cpu=True, beam=2)
    options = {"cpu": True, "beam": 2, "processes": 2, "batch_size": 4}
    with Translator.load(bilingual.checkpoint, **options) as together:
        left = together.stream(lines)
        assert next(left).hypotheses
        left.close()
        assert together.translate(lines) == alone.translate(lines)


def test_a_line_is_answered_before_the_next_one_is_given(bilingual: Trained) -> None:
    process = subprocess.Popen(
        module("translate", "--path", bilingual.checkpoint, "--cpu", "--buffer", "1"),
        **{"cwd": ROOT, "env": environment(), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        answers = []
        for line in b"one hundred\n", b"\n", b"seven\n":
            process.stdin.write(line)
            process.stdin.flush()
            answers.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.stdout.close()
    assert answers[1] == b"\n"
    assert all(len(answer) > 1 for answer in (answers[0], answers[2]))


class Terminal(io.StringIO):
    """Where a progress line is shown."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("options", "is_shown"), [((), True), (("--quiet",), False)])
def test_a_terminal_gets_a_progress_line_unless_it_shall_be_quiet(
    bilingual: Trained, tmp_path: Path, monkeypatch, options: tuple[str, ...], is_shown: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    source = str(bilingual.raw("en-de", "en"))
    command(bilingual, tmp_path, "--input", source, *options)
    shown = terminal.getvalue()
    assert ("/25" in shown) == is_shown
    assert ("finished: 25 lines" in shown) == is_shown
    assert bool(shown) == is_shown


def test_what_cannot_be_translated_is_refused_by_name(
    bilingual: Trained, translator: Translator, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match="--source-lang is needed"):
        translator.translate(["one"])
    with pytest.raises(UserError, match="--target-lang it: the checkpoint knows de, en, fr"):
        translator.translate(["one"], source="en", target="it")
    with pytest.raises(UserError, match="en-fr: the checkpoint translates en-de only"):
        Translator.load(bilingual.checkpoint, cpu=True).translate(["one"], target="fr")
    with pytest.raises(UserError, match="a list of lines"):
        translator.translate("one", source="en", target="de")
    with pytest.raises(UserError, match=r"nowhere\.pt.*no such file"):
        Translator.load("nowhere.pt")
    arguments = ["--path", str(bilingual.checkpoint), "--nbest", "6", "--input", "/dev/null"]
    assert translate.main(arguments) == 2
    assert "--nbest (6) must be from 1 to --beam (5)" in capsys.readouterr().err
