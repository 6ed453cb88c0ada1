"""Ctrl-C in one process, and in the parent of several; what trains is in tests/faults."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment

# A process that trains without an end, and never gets to saving.
ALONE = """
import os, signal, sys, time
from user_dir.training.stopping import is_interrupted, num_requests, request_stop_on_signals
request_stop_on_signals(interruption=signal.SIGINT, speaks=True)
own = os.getpid()
if os.fork() == 0:  # as the readers of data are
    while os.getppid() == own:
        time.sleep(0.05)
    os._exit(0)
os.write(1, b"ready\\n")
while not num_requests():
    time.sleep(0.05)
os.write(1, f"asked {is_interrupted()}\\n".encode())
time.sleep(60)
"""
PARENT = """
import sys
from user_dir.training.local_processes import spawn_local
sys.exit(spawn_local([sys.argv[1]], 2))
"""
# What the parent starts: saves when asked to, if it can be asked and has the time.
CHILD = """
import os, sys, time
from user_dir.training.local_processes import INTERRUPTION
from user_dir.training.stopping import num_requests, request_stop_on_signals
index = os.environ["RANK"]
if "deaf" not in os.environ["KIND"]:
    request_stop_on_signals(interruption=INTERRUPTION, speaks=index == "0")
os.write(1, b"ready\\n")
while not num_requests():
    time.sleep(0.05)
os.write(1, b"asked\\n")
time.sleep(60 if os.environ["KIND"] == "slow" else 0.2)
os.write(1, b"saved\\n")
"""
SAVING = "scomoe-train: interrupted: saving, then ending; Ctrl-C again ends at once, with the"
NOT_SAVED = "scomoe-train: interrupted; checkpoints are as they were last saved: run the same"


class Pressed:
    """A command, as a terminal has it: Ctrl-C reaches it and all that it started."""

    def __init__(self, *command: str, **variables: str):
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, line: str, *, times: int = 1) -> None:
        for _ in range(times):
            assert self.process.stdout.readline() == f"{line}\n"

    def press(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """(Status, rest of the output, standard error)."""
        started = time.monotonic()
        out, errors = self.process.communicate(timeout=30)
        assert time.monotonic() - started < 5
        return self.process.returncode, out, errors


@pytest.fixture
def start() -> Iterator[Callable[..., Pressed]]:
    """Starts a command, of which nothing is left after the test."""
    started = []

    def one(*command: str, **variables: str) -> Pressed:
        started.append(Pressed(*command, **variables))
        return started[-1]

    yield one
    for run in started:
        with suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


def test_the_first_asks_and_the_second_ends_at_once(start):
    run = start("-c", ALONE)
    run.wait_for("ready")
    run.press()
    run.wait_for("asked True")
    run.press()
    status, _, errors = run.end()
    assert status == -signal.SIGINT  # 130 in a shell
    assert errors.count(SAVING) == 1
    assert len(errors.splitlines()) == 1


def test_before_training_the_first_ends_at_once(start, tmp_path: Path):
    for language in "en", "de":
        (tmp_path / f"dict.{language}.txt").touch()
    arguments = f"{tmp_path} --task scomoe_translation --arch scomoe_tiny --optimizer moe_adam"
    arguments += " --lr 3e-3 --criterion moe_cross_entropy"  # a mistake would end it before torch
    script = f"import sys; from user_dir.cli import train; train.main({arguments.split()})"
    # Python says on standard error what it imports, of which torch takes seconds.
    run = start("-X", "importtime", "-c", script)
    assert any("torch._C" in line for line in iter(run.process.stderr.readline, ""))
    run.press()
    status, _, errors = run.end()
    assert status == 130
    assert errors.count(NOT_SAVED) == 1
    assert "Traceback" not in errors


@pytest.fixture
def several(start, tmp_path: Path) -> Callable[[str], Pressed]:
    """Two processes and their parent, of which all have been told of Ctrl-C."""
    (tmp_path / "a_child.py").write_text(CHILD)

    def started(kind: str) -> Pressed:
        run = start("-c", PARENT, "a_child", KIND=kind, PYTHONPATH=f"{ROOT}:{tmp_path}")
        run.wait_for("ready", times=2)
        run.press()
        return run

    return started


def test_several_processes_are_asked_once(several):
    run = several("quick")
    status, out, errors = run.end()
    assert (status, out) == (130, "asked\nasked\nsaved\nsaved\n")
    assert errors.count(SAVING) == 1
    assert len(errors.splitlines()) == 1


def test_a_second_ends_several_at_once(several):
    run = several("slow")
    run.wait_for("asked", times=2)
    run.press()
    status, out, errors = run.end()
    assert (status, out) == (130, "")
    first, second = errors.splitlines()
    assert first.startswith(SAVING)
    assert second.startswith(NOT_SAVED)


def test_those_that_cannot_be_asked_are_ended(several):
    """They have not begun to train, or the criterion is one through which none can agree."""
    status, out, errors = several("deaf").end()
    assert (status, out) == (130, "")
    assert errors.count(NOT_SAVED) == 1
    assert len(errors.splitlines()) == 1
