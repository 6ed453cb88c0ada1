"""`make quickstart`'s script: what it refuses, what it would run, and the whole of it."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment


def quickstart(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess:
    command = ["bash", ROOT / "train_scripts" / "quickstart.sh", *arguments]
    return subprocess.run(
        [str(part) for part in command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_help_shows_an_example_and_runs_nothing(tmp_path: Path) -> None:
    done = quickstart("--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout


def test_a_dry_run_prints_the_commands_and_writes_nothing(tmp_path: Path) -> None:
    done = quickstart("--dry-run", "--out", tmp_path / "out", "--updates", "7", "--seed", "5")
    assert done.returncode == 0
    commands = [line for line in done.stdout.splitlines() if "user_dir.cli" in line]
    modules = [re.search(r"user_dir\.cli\.(\w+)", line)[1] for line in commands]
    assert modules == ["prepare_numbers", "train", "evaluate", "report", "report"]
    assert "--max-update 7" in commands[1]
    assert all("--seed 5" in command for command in commands[:2])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--updates", "0"), "--updates"),
        (("--processes", "two"), "--processes"),
        (("--out",), "--out"),
        (("--fast",), "--fast"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], named: str) -> None:
    done = quickstart(*arguments)
    assert done.returncode == 2
    assert named in done.stderr


def test_a_folder_of_the_user_s_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine").write_text("mine")
    done = quickstart("--out", tmp_path)
    assert done.returncode == 2
    assert "--out" in done.stderr
    assert (tmp_path / "corpus" / "mine").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_of_it_reaches_its_score(tmp_path: Path) -> None:
    done = quickstart("--out", tmp_path / "out", timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    last_row = next(line for line in done.stdout.splitlines() if line.startswith("all  "))
    _, directions, lines, bleu, *_ = last_row.split()
    assert (directions, lines) == ("16", "600")
    assert float(bleu) >= 85
    assert "BLEU by direction" in (tmp_path / "out" / "report.html").read_text()
