"""Dockerfile and apptainer.def against each other, the installer and its page; neither is built."""

import re
import shutil
import subprocess

import pytest

from tests.support.commands import ROOT, environment

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
APPTAINER = (ROOT / "apptainer.def").read_text("utf-8")
INSTALLER = (ROOT / "tools" / "install.sh").read_text("utf-8")
PYTHON_OF = {"bookworm": "3.11"}  # Debian's python3
PLACE = "/opt/scomoe"


def packages(text: str) -> list[str]:
    found = re.search(r"apt-get install (?:-\S+ )*(?:\\\n)?(.*?)(?: && |\n)", text)
    return found[1].split()


def section(name: str) -> str:
    return re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER, re.DOTALL | re.MULTILINE)[1]


def test_both_begin_with_the_same_system_whose_python_the_installer_takes():
    image = re.search(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)[1]
    assert f"\nFrom: {image}\n" in APPTAINER
    python = PYTHON_OF[re.search(r"debian:(\w+)", image)[1]]
    assert f"$version == {python}" in INSTALLER.replace("!=", "==")


def test_both_install_what_the_page_names():
    page = (ROOT / "docs" / "installation.md").read_text("utf-8")
    named = set(packages(page.replace("sudo ", "")))
    assert (
        set(packages(DOCKERFILE)) == set(packages(section("post"))) == named | {"ca-certificates"}
    )


def test_both_take_torch_from_the_index_that_the_page_names():
    index = "https://download.pytorch.org/whl/cpu"
    for text in DOCKERFILE, section("post"), (ROOT / "docs" / "installation.md").read_text("utf-8"):
        assert f"PIP_EXTRA_INDEX_URL={index}" in text or f"PIP_EXTRA_INDEX_URL-{index}" in text


def test_both_install_by_make_and_put_the_commands_on_the_path():
    assert f"WORKDIR {PLACE}\nCOPY . .\nRUN make install" in DOCKERFILE
    assert f"make -C {PLACE} install" in section("post")
    for text in DOCKERFILE, section("environment"):
        assert f"PATH={PLACE}/.venv/bin:$PATH" in text


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository's git")
def test_what_is_tracked_is_copied_and_nothing_else():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    tracked = {path.split("/")[0] for path in listed if path and not path.startswith(".")}
    copied = dict(line.split() for line in section("files").strip().splitlines())
    assert copied == {name: f"{PLACE}/{name}" for name in tracked - {"Dockerfile", "apptainer.def"}}
    ignored = set((ROOT / ".dockerignore").read_text("utf-8").splitlines())
    assert not ignored & tracked
    for line in (ROOT / ".gitignore").read_text("utf-8").splitlines():
        name = line.strip("/")
        if name and not name.startswith("#"):
            assert {name, f"**/{name}"} & ignored, name


def test_their_scripts_are_bash_and_the_installer_begins_from_a_copy(tmp_path):
    script = "\n".join(re.findall(r"^RUN (.*(?:\\\n.*)*)", DOCKERFILE, re.MULTILINE))
    for text in script, *map(section, ("post", "environment", "test", "runscript")):
        subprocess.run(["bash", "-n", "-c", text], check=True)
    for name in "Makefile", "requirements.lock", "setup.py", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    done = subprocess.run(
        ["bash", "tools/install.sh", "--dry-run"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "requirements.lock" in done.stdout
