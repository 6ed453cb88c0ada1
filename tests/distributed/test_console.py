"""What a person sees of real runs: one in two processes, and what goes on from it on a terminal."""

import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment, module, run, train_arguments
from user_dir.text.scoring.train_log import read_train_log


def command(corpus: Path, save_dir: Path, *options: str) -> list[str]:
    arguments = train_arguments(corpus / "bin", save_dir)
    at = arguments.index("--log-format")
    return [str(part) for part in module("train", *arguments[:at], *arguments[at + 2 :], *options)]


def run_on_terminal(arguments: list[str], out: Path) -> tuple[str, str]:
    """What a command prints into a file, and what it draws on its terminal."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 30, 110, 0, 0))
    with out.open("w") as file:
        started = subprocess.Popen(
            arguments, cwd=ROOT, env=environment(), stdout=file, stderr=slave
        )
    os.close(slave)
    drawn = b""
    with suppress(OSError):  # which the end of a terminal is
        while part := os.read(master, 4096):
            drawn += part
    os.close(master)
    assert started.wait() == 0, drawn.decode()
    return out.read_text(), drawn.decode()


@pytest.fixture(scope="module")
def two_runs(small_corpus, tmp_path_factory):
    """The folder, what the first run printed, what the second printed and drew."""
    folder = tmp_path_factory.mktemp("console") / "run"
    first = run(command(small_corpus, folder, "--processes", "2", "--max-update", "2"))
    assert "error" not in first.stderr
    again = command(small_corpus, folder, "--max-update", "3")
    return folder, first.stdout, *run_on_terminal(again, folder.parent / "out")


def test_one_process_speaks_a_header_and_a_line_for_each_event(two_runs, small_corpus):
    folder, first, *_ = two_runs
    lines = first.splitlines()
    starts = ["model", "layout", "parameters", "corpus", "device", "log", "update", "update"]
    # Saved before the validation, and with its score after it.
    starts += ["checkpoint", "validation", "checkpoint", "done"]
    assert [line.split()[0] for line in lines] == starts
    assert lines[0].endswith("scomoe_tiny, MoE layers: 2 plain, 8 experts each")
    assert lines[1].endswith("2 nodes x 2 ranks, on 2 processes")
    total, of_rank, active = (
        int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", lines[2])
    )
    assert active == of_rank < total  # two experts a rank, two experts a token
    assert lines[3].endswith(f"{small_corpus / 'bin'}, en-de, 300 sentences an epoch")
    assert lines[4].endswith("CPU")
    assert lines[5].endswith(str(folder / "train.log"))
    figures = r"loss \S+  nll \S+  \S+ tokens/s  balance \S+  \S+ kB between nodes"
    assert re.fullmatch(rf"update      1  epoch 0\.20  {figures}  \d+ s left", lines[6])
    assert re.match(r"validation  valid after update 2  loss \S+  nll \S+", lines[9])


def test_the_second_run_says_where_it_starts_and_draws_on_its_terminal(two_runs):
    *_, printed, drawn = two_runs
    assert "start       after update 2\n" in printed
    assert printed.count("\nupdate ") == 1
    assert "training:" in drawn
    assert "| 2/3 [" in drawn
    assert "validation on valid:" in drawn


def test_the_log_of_both_is_in_one_file_that_tools_read(two_runs):
    folder, *_ = two_runs
    text = (folder / "train.log").read_text()
    assert read_train_log(folder / "train.log").updates == 3
    assert text.count("| train_inner |") == 3
    assert text.count("Loaded checkpoint") == 1
