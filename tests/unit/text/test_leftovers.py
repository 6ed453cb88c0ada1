"""What a killed run leaves behind goes; what a living one works on stays."""

import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment
from user_dir.text.leftovers import temporary_folder
from user_dir.text.whole_output import new_folder, whole_file

# A run that begins an output and is killed while it writes it.
KILLED = """
import os, signal, sys
from pathlib import Path
from user_dir.text.leftovers import temporary_folder
from user_dir.text.whole_output import new_folder, whole_file
begin = {
    "file": lambda: whole_file(sys.argv[2], flag="--output"),
    "folder": lambda: new_folder(sys.argv[2], overwrite=True),
    "temporary": temporary_folder,
}
with begin[sys.argv[1]]() as place:
    if sys.argv[1] == "file":
        place.write(b"half")
    else:
        (place / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_run(kind: str, out: Path | str = "") -> None:
    command = [sys.executable, "-c", KILLED, kind, str(out)]
    environ = {**environment(), "TMPDIR": tempfile.gettempdir()}
    assert subprocess.run(command, cwd=ROOT, env=environ, timeout=60).returncode == -9


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def write(kind: str, out: Path) -> None:
    if kind == "file":
        with whole_file(out, flag="--output") as file:
            file.write(b"new")
    else:
        with new_folder(out, overwrite=True) as folder:
            (folder / "spm.model").write_text("new")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_start_removes_what_a_killed_one_left(kind, tmp_path):
    (tmp_path / ".out.partial-mine").write_text("")
    (tmp_path / ".other.partial-01234567").write_text("")
    kill_a_run(kind, tmp_path / "out")
    assert len(names(tmp_path)) == 3
    write(kind, tmp_path / "out")
    assert names(tmp_path) == [".other.partial-01234567", ".out.partial-mine", "out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_runs_at_a_time_both_finish(kind, tmp_path):
    out = tmp_path / "out"
    with ExitStack() as stack:
        if kind == "file":
            stack.enter_context(whole_file(out, flag="--output")).write(b"first")
        else:
            first = stack.enter_context(new_folder(out, overwrite=True))
            (first / "spm.model").write_text("first")
        write(kind, out)
    assert names(tmp_path) == ["out"]
    path = out if kind == "file" else out / "spm.model"
    assert path.read_text() == "first"


def test_a_folder_taken_aside_by_a_killed_run_comes_back(tmp_path):
    retired = tmp_path / ".out.old-01234567"
    retired.mkdir()
    (retired / "spm.model").write_text("old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", overwrite=True):
        assert (tmp_path / "out" / "spm.model").read_text() == "old"
        raise RuntimeError
    assert names(tmp_path) == ["out"]


def test_temporary_folders_of_killed_runs_go_and_those_of_living_ones_stay(temporary):
    (temporary / "scomoe-results").mkdir()
    kill_a_run("temporary")
    kill_a_run("temporary")  # removes the first one's
    (left,) = [name for name in names(temporary) if name != "scomoe-results"]
    assert re.fullmatch("scomoe-run-[0-9a-f]{16}", left)
    with temporary_folder() as first, temporary_folder() as second:
        assert names(temporary) == sorted(["scomoe-results", first.name, second.name])
    assert names(temporary) == ["scomoe-results"]
