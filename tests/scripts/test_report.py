"""`scomoe-report`: the page and its figures as files, and what is refused."""

from pathlib import Path

import pytest

from tests.support.commands import module, run
from tests.support.run_folders import write_evaluation, write_run


def test_the_page_and_single_figures_are_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "model")
    evaluation = write_evaluation(tmp_path / "scored")
    out, figures = tmp_path / "report.html", tmp_path / "figures"
    options = ("--evaluation", evaluation, "--out", out, "--png", figures)
    done = run(module("report", folder, *options))
    assert f"wrote {out}" in done.stdout
    assert "BLEU by direction" in out.read_text()
    pictures = list(figures.iterdir())
    assert len(pictures) == out.read_text().count("<figure id=")
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in pictures)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "name a run"),
        (("--text",), "--evaluation"),
        (("nowhere",), "nowhere holds neither"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    done = run(module("report", *arguments), check=False)
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "report.html").exists()
