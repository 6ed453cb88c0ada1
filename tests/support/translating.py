"""scomoe-translate in this process: what it writes, and the sentence that it fails with."""

from pathlib import Path

import pytest

from tests.support.trained import Trained
from user_dir.cli import translate


def translate_file(model: Trained, source: Path, *options: str | Path) -> list[str]:
    """The lines that scomoe-translate writes, which must be as many as it read."""
    output = source.with_name(f"{source.name}.out")
    arguments = ["--path", model.checkpoint, "--input", source, "--output", output, *options]
    assert translate.main([str(argument) for argument in arguments]) == 0
    lines = output.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return lines


def translate_text(model: Trained, folder: Path, text: str, *options: str | Path) -> list[str]:
    source = folder / "source.txt"
    source.write_bytes(text.encode())
    return translate_file(model, source, *options)


def error_of(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    """The one sentence of a call that must fail."""
    capsys.readouterr()
    assert translate.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("scomoe-translate: error: ")
    return line
