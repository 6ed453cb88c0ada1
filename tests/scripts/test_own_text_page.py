"""docs/your-own-text.md: its first commands, run as they stand there, at small size."""

import re
import subprocess
import sys
from pathlib import Path

from tests.scripts.test_prepare import sentences, write
from tests.support.commands import ROOT, environment

# A minute is enough to see that the commands fit together.
SMALLER = {
    "--valid-lines 500": "--valid-lines 16",
    "--test-lines 500": "--test-lines 6",
    "--max-epoch 20": "--max-epoch 1 --cpu",
    "--path model": "--cpu --beam 1 --max-len-b 20 --path model",
}


def install_commands(folder: Path) -> None:
    """The commands that an installation would put on the PATH."""
    folder.mkdir()
    for name in "prepare", "train", "translate", "evaluate":
        command = folder / f"scomoe-{name}"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m user_dir.cli.{name} "$@"\n')
        command.chmod(0o755)


def test_the_first_commands_lead_from_two_files_to_a_translation_and_a_score(tmp_path):
    page = (ROOT / "docs" / "your-own-text.md").read_text(encoding="utf-8")
    script = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    assert script.count("\n") <= 10
    for shown, smaller in SMALLER.items():
        assert shown in script
        script = script.replace(shown, smaller)
    for language in "en", "de":
        write(tmp_path / f"corpus.{language}", sentences(language, 120))
    install_commands(tmp_path / "commands")
    variables = environment()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**variables, "PATH": f"{tmp_path / 'commands'}:{variables['PATH']}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert re.search(r"\| en-de \| +1 \| +6 \|", done.stdout), done.stdout
    assert len((tmp_path / "evaluation/test.en-de.de").read_text("utf-8").splitlines()) == 6
