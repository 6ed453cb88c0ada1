"""scomoe-translate when something is wrong: a sentence, and nothing is lost."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.commands import ROOT, environment, module
from tests.support.trained import Trained
from tests.support.translating import error_of
from user_dir.cli import translate
from user_dir.errors import UserError
from user_dir.translation.decoding import Batch
from user_dir.translation.resolve import resolve
from user_dir.translation.team import Alone, Copies


def test_invalid_utf8_is_named_by_file_and_line(
    bilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(b"one\ntwo\nthr\xff\xffee\n")
    message = error_of(capsys, "--path", bilingual.checkpoint, "--input", source)
    assert f"{source}, line 3: not valid UTF-8" in message
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xe9\n")))
    assert "standard input, line 1" in error_of(capsys, "--path", bilingual.checkpoint)


def test_mistakes_are_named_by_their_flag(
    bilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ours = ("--path", bilingual.checkpoint)
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"no checkpoint")
    tensors = tmp_path / "tensors.pt"
    torch.save({"model": {}}, tensors)
    data = tmp_path / "data"
    data.mkdir()
    nowhere = tmp_path / "nowhere" / "x"
    mistakes = {
        ("--path", nowhere): f"--path ({nowhere}): no such file",
        ("--path", f"{bilingual.checkpoint}:{garbage}"): f"--path ({garbage}): not a checkpoint",
        ("--path", tensors): f"--path ({tensors}): not a checkpoint of fairseq",
        (*ours, "--data", nowhere): f"--data ({nowhere}) is not there",
        (*ours, "--data", data): f"--data ({data}) has no dict.en.txt",
        (*ours, "--input", nowhere): f"--input ({nowhere}): cannot be read",
        (*ours, "--target-lang", "fr"): "--target-lang fr: the checkpoint translates from en to de",
        (*ours, "--sentencepiece-model", nowhere): f"--sentencepiece-model ({nowhere})",
        (*ours, "--sentencepiece-model", garbage): "not a sentencepiece model",
        (*ours, "--fp16", "--cpu"): "--fp16 is very slow on a CPU",
        (*ours, "--max-len-b", "0"): "--max-len-b must be at least 1",
        (*ours, "--input", garbage, "--output", nowhere): f"--output ({nowhere}): nothing can",
        (*ours, "--input", garbage, "--output", data): f"--output ({data}) is a folder",
    }
    for arguments, message in mistakes.items():
        assert message in error_of(capsys, *arguments), arguments


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "malicious.pt"
    torch.save({"model": {}, "cfg": Malicious()}, path)
    assert "not a checkpoint that can be loaded safely" in error_of(capsys, "--path", path)
    assert not (tmp_path / "ran").exists()


def test_a_failed_run_leaves_the_old_output(
    bilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    (tmp_path / "source.txt").write_text("one\ntwo\nthree\n")
    output = tmp_path / "output.txt"
    output.write_text("old\n")
    real = Alone.translate
    without_the_first = lambda *arguments: list(real(*arguments))[1:]  # noqa: E731
    monkeypatch.setattr(Alone, "translate", without_the_first)
    message = error_of(
        *(capsys, "--path", bilingual.checkpoint),
        *("--input", tmp_path / "source.txt", "--output", output, "--batch-size", "2"),
    )
    assert "2 of 3 lines have no translation" in message
    assert output.read_text() == "old\n"
    assert {path.name for path in tmp_path.iterdir()} == {"source.txt", "output.txt"}


def children_of(pid: int) -> list[int]:
    """The workers among the children of a process."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"spawn_main" in command:
            found.append(int(child))
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_a_killed_worker_ends_the_others_and_writes_nothing(
    bilingual: Trained, tmp_path: Path
) -> None:
    source, output = tmp_path / "source.txt", tmp_path / "output.txt"
    source.write_text("one hundred\n" * 20_000)
    output.write_text("old\n")
    arguments = ["--path", str(bilingual.checkpoint), "--input", str(source)]
    arguments += ["--output", str(output), "--processes", "2", "--max-tokens", "100"]
    process = subprocess.Popen(
        module("translate", *arguments), cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while len(workers := children_of(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(workers[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "worker 2 of 2 was ended by SIGKILL; the others were stopped" in errors.decode()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert output.read_text() == "old\n"
    assert {path.name for path in tmp_path.iterdir()} == {"source.txt", "output.txt"}


def test_a_worker_s_error_reaches_the_parent(bilingual: Trained, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    state = torch.load(bilingual.checkpoint, weights_only=True)
    del state["model"]["encoder.layer_norm.weight"]
    torch.save(state, broken)
    args = translate.get_parser().parse_args(["--path", str(broken), "--cpu"])
    with pytest.raises(UserError, match=r"encoder\.layer_norm\.weight"):
        list(Copies(resolve(args), processes=1).translate([Batch(["one"])]))
