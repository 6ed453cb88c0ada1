"""Help and mistakes in the options come at once: nothing slow is imported for them."""

import sys

import pytest

from tests.support.commands import ROOT, run

COMMANDS = sorted(
    path.stem
    for path in (ROOT / "user_dir" / "cli").glob("*.py")
    if "def main(" in path.read_text(encoding="utf-8")
)
_CALL = """
import importlib, sys
try:
    status = importlib.import_module(f"user_dir.cli.{sys.argv[1]}").main(sys.argv[2:])
except SystemExit as end:
    status = end.code
slow = sorted({"torch", "fairseq"} & set(sys.modules))
print(f"status {status}, imported: {slow}", file=sys.stderr)
"""


def call(*arguments: str):
    return run([sys.executable, "-c", _CALL, *arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_torch_nor_fairseq(command: str) -> None:
    done = call(command, "--help")
    assert "usage:" in done.stdout
    assert done.stderr.splitlines()[-1] == "status 0, imported: []"


@pytest.mark.parametrize("command", ["average", "evaluate", "translate"])
def test_a_mistake_in_the_options_imports_neither(command: str) -> None:
    assert call(command, "--beam", "none").stderr.splitlines()[-1] == "status 2, imported: []"


@pytest.mark.parametrize(
    "arguments", [["--moe-expert-cout", "8"], ["--arch", "scomoe"], ["--processes", "two"]]
)
def test_nor_does_one_in_those_of_a_run(arguments: list[str]) -> None:
    errors = call("train", "no/such/data", *arguments).stderr.splitlines()
    assert errors[-2].startswith("scomoe-train: error: ")
    assert errors[-1] == "status 2, imported: []"


@pytest.mark.parametrize(
    "mistake", ["--ratio1 0.2", "--scomoe-type seq --encoder-layers 2", "--max-source-positions x"]
)
def test_nor_do_mixtures_that_do_not_fit(mistake: str) -> None:
    good = "--task scomoe_translation --arch scomoe_tiny --optimizer moe_adam --lr 1e-3"
    arguments = f"{good} --criterion moe_cross_entropy --cpu --decoder-layers 2 {mistake}"
    errors = call("train", "no/such/data", *arguments.split()).stderr.splitlines()
    assert mistake.split()[0] in errors[-2]
    assert errors[-1] == "status 2, imported: []"


@pytest.mark.parametrize("order", ["fairseq, user_dir", "user_dir, fairseq, user_dir.register"])
def test_the_package_registers_where_fairseq_is(order: str) -> None:
    """The first is what `--user-dir` does, the second what our commands do."""
    script = f"import {order}; from fairseq.models import ARCH_MODEL_REGISTRY as known"
    done = run([sys.executable, "-c", f"{script}; print('scomoe_tiny' in known)"])
    assert done.stdout.splitlines()[-1] == "True"
