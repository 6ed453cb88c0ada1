"""The bash side of the prepare commands."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests.scripts.corpus_commands import REPOSITORY, run_script
from user_dir.cli import prepare_debian, prepare_gnome, prepare_multi30k, prepare_numbers

SCRIPTS = {
    "prepare_numbers.sh": prepare_numbers,
    "prepare_multi30k.sh": prepare_multi30k,
    "prepare_debian.sh": prepare_debian,
    "prepare_gnome.sh": prepare_gnome,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_an_example_and_names_every_option_of_the_command(name):
    shown = run_script(name, "--help")
    assert shown.returncode == 0 and "Example:" in shown.stdout
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout)) - {"--dry-run"}
    actions = SCRIPTS[name].get_parser()._actions
    assert flags == {flag for action in actions for flag in action.option_strings} - {
        "-h",
        "--help",
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_dry_run_prints_a_command_that_a_shell_can_take(name, tmp_path):
    shown = run_script(name, "--out", "a b", "--dry-run", "--pair", "$x", cwd=tmp_path)
    words = shlex.split(shown.stdout)
    module = name.removesuffix(".sh")
    assert words[-6:] == ["-m", f"user_dir.cli.{module}", "--out", "a b", "--pair", "$x"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_example_in_the_help_is_accepted_by_the_command(name):
    example = run_script(name, "--help").stdout.split("Example:\n")[1].strip()
    SCRIPTS[name].get_parser().parse_args(shlex.split(example)[1:])


def test_a_script_passes_on_the_status_and_works_from_any_folder(tmp_path):
    (tmp_path / "user_dir").mkdir()  # not ours
    (tmp_path / "user_dir" / "__init__.py").write_text("raise SystemExit(99)")
    arguments = ["--raw", "nowhere", "--pair", "en-de", "--out", "out"]
    shown = run_script("prepare_multi30k.sh", *arguments, cwd=tmp_path)
    assert shown.returncode == 2
    assert "error: nowhere/train.de.gz: no such file" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("name", [*SCRIPTS, "lib.sh"])
def test_scripts_are_clean(name):
    script = REPOSITORY / "preprocess_scripts" / name
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--external-sources", script], check=True)
