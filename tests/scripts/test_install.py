"""The installer's messages and its restarts, with a stand-in for Python that installs nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("tools/install.sh", "requirements.lock", "setup.py")
TOOLS = ("bash", "cat", "chmod", "cp", "dirname", "env", "flock", "grep", "mkdir", "nproc", "rm")
TOOLS += ("sha256sum", "tail")

# Answers what the installer asks a Python; {missing} is what the probe finds missing.
FAKE_PYTHON = """#!{bash}
echo "$*" | {head} -n 1 >>"{calls}"
case "$*" in
  *"-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    echo "#!$3/bin/python" >"$3/bin/pip" ;;
  *"-m pip show"*) exit 1 ;;
  *"-m pip install"*fairseq-fixed*) [[ ! -e "{broken}" ]] || {{ echo "no space left"; exit 1; }} ;;
  *ensurepip*) echo "{version} {missing}" ;;
  *version_info*) echo "{version}" ;;
  --version) echo "Python {version}.2" ;;
  *fairseq.libbase*) {grep} -q "pip install.*fairseq-fixed" "{calls}" ;;
  *) : ;;
esac
"""


class Machine:
    """A copy of the installer and a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.broken = folder / "broken"
        self.bin.mkdir()
        for name in COPIED:
            (self.repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.repository / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is needed to run this test"
            (self.bin / tool).symlink_to(found)
        self.add("c++", f"#!{shutil.which('bash')}\nexit 0\n")

    def add(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_python(self, name: str, version: str, missing: str = "-") -> Path:
        tools = {tool: shutil.which(tool) for tool in ("bash", "head", "grep")}
        return self.add(
            name,
            FAKE_PYTHON.format(
                version=version, missing=missing, calls=self.calls, broken=self.broken, **tools
            ),
        )

    def install(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
        return subprocess.run(
            ["bash", str(self.repository / "tools/install.sh"), *args],
            env=kept | {"PATH": str(self.bin)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def error(self, *args: str, **environment: str) -> str:
        """The one line on standard error of an installation that must fail."""
        result = self.install(*args, **environment)
        assert result.returncode != 0
        assert not (self.repository / ".venv").exists()
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("install: error: ")
        return lines[0]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_help_names_the_environment_variables(machine: Machine) -> None:
    result = machine.install("--help")
    assert result.returncode == 0
    for name in ("PYTHON", "CXX", "MAX_JOBS", "--dry-run"):
        assert name in result.stdout


def test_an_unknown_option_is_refused(machine: Machine) -> None:
    assert "'--frobnicate'" in machine.error("--frobnicate")


def test_a_missing_compiler_says_what_to_install(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    (machine.bin / "c++").unlink()
    assert "apt-get install g++" in machine.error()


def test_a_compiler_that_does_not_compile_is_no_compiler(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    machine.add("broken-c++", f"#!{shutil.which('bash')}\nexit 1\n")
    message = machine.error(CXX="broken-c++")
    assert "CXX=broken-c++" in message
    assert "apt-get install g++" in message


def test_no_python_says_what_to_install(machine: Machine) -> None:
    message = machine.error()
    assert "none on PATH" in message
    assert "apt-get install python3.11 python3.11-venv python3.11-dev" in message


def test_a_wrong_python_is_named_with_its_version(machine: Machine) -> None:
    path = machine.add_python("python3", "3.9")
    message = machine.error()
    assert f"{path} is Python 3.9" in message
    assert "apt-get install python3.11" in message


def test_the_python_asked_for_is_the_only_one_considered(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    path = machine.add_python("python3.13", "3.13")
    message = machine.error(PYTHON="python3.13")
    assert "PYTHON must be a Python 3.11 or 3.12" in message
    assert f"{path} is Python 3.13" in message


@pytest.mark.parametrize(
    ("missing", "packages"),
    [
        ("venv", "python3.12-venv"),
        ("dev", "python3.12-dev"),
        ("venv,dev", "python3.12-venv python3.12-dev"),
    ],
)
def test_an_incomplete_python_says_which_packages_complete_it(
    machine: Machine, missing: str, packages: str
) -> None:
    machine.add_python("python3.12", "3.12", missing)
    assert machine.error().endswith(f"sudo apt-get install {packages}")


def test_a_shim_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.add("python3.11", f"#!{shutil.which('bash')}\nexit 127\n")
    machine.add_python("python3.12", "3.12")
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert "Python 3.12.2" in result.stdout


def test_a_second_run_does_nothing(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    assert machine.install().returncode == 0
    machine.calls.unlink()
    result = machine.install()
    assert result.stdout == "install: .venv is up to date\n"
    assert "pip" not in machine.calls.read_text()


@pytest.mark.parametrize("changed", ["requirements.lock", "setup.py", "csrc"])
def test_a_changed_input_installs_again_and_keeps_what_fits(machine: Machine, changed: str) -> None:
    machine.add_python("python3.11", "3.11")
    assert machine.install().returncode == 0
    if changed == "csrc":
        source = machine.repository / "user_dir/fast_moe/routing/csrc/kernel.cpp"
        source.parent.mkdir(parents=True)
        source.write_text("int x;\n")
    else:
        with (machine.repository / changed).open("a") as file:
            file.write("# changed\n")
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert "pinned packages" in result.stdout
    assert "creating" not in result.stdout
    assert "compiling" not in result.stdout
    assert "up to date" in machine.install().stdout


def test_a_failed_step_shows_its_log_and_the_next_run_resumes(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    machine.broken.touch()
    result = machine.install()
    assert result.returncode != 0
    assert "no space left" in result.stderr
    machine.broken.unlink()
    machine.calls.unlink()
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert "creating" not in result.stdout
    assert "compiling" in result.stdout
    assert "up to date" in machine.install().stdout


def test_an_environment_that_was_moved_is_built_anew(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    assert machine.install().returncode == 0
    machine.repository = machine.repository.rename(machine.repository.with_name("moved"))
    assert "creating" in machine.install().stdout


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    machine.add_python("python3.11", "3.11")
    result = machine.install("--dry-run")
    assert result.returncode == 0, result.stderr
    assert "'--no-binary' 'fairseq-fixed'" in result.stdout  # a wheel fits only its own torch
    assert not (machine.repository / ".venv").exists()
