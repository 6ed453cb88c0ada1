"""`scomoe-plan`: its tables, files and sentences, and what a probe measures."""

import json

import pytest

from tests.support.commands import module, run
from user_dir.cli.plan import main
from user_dir.planning.machine import read_machine, shipped_machines


def test_a_plan_is_printed_and_written(tmp_path, capsys):
    out, figures = tmp_path / "plan.html", tmp_path / "plan.json"
    options = ["--cluster", "8xv100-edr", "--precision", "fp16", "--moe-expert-count", "32"]
    options += ["--gbit-between", "50", "--scomoe-type", "seq", "--train-tokens", "1e9"]
    assert main([*options, "--out", str(out), "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "4 nodes x 8 ranks, 32 experts" in said and "50 Gbit/s a node" in said
    assert "Time of an update, ms" in said and "Fastest with at least 0.25" in said
    found = json.loads(figures.read_text())
    assert found["asked"] == "seq 0.2/0.5" and found["machine"]["gbit_between"] == 50
    assert out.read_text().startswith("<!doctype html>")


def test_machines_are_listed(capsys):
    assert main(["--cluster", "list"]) == 0
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines()] == shipped_machines()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name a machine with --cluster"),
        (["--cluster", "nothing"], "neither a file nor one of"),
        (["--cluster", "dgx-a100", "--processes", "2"], "--processes needs --probe"),
        (["--cluster", "dgx-a100", "--save-cluster", "x"], "--save-cluster needs --probe"),
        (["--cluster", "dgx-a100", "--moe-expert-count", "7"], "--moe-expert-count"),
        (["--probe", "--cluster", "dgx-a100"], "leave one out"),
        (["--cluster", "dgx-a100", "--json", "/nowhere/x"], "--json (/nowhere/x)"),
    ],
    ids=str,
)
def test_a_mistake_is_a_sentence(options, says, capsys):
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("scomoe-plan: error: ") and error.count("\n") == 1
    assert says in error


def test_a_probe_of_two_processes_is_a_machine(tmp_path):
    path = tmp_path / "mine.toml"
    options = ["--probe", "--processes", "2", "--arch", "scomoe_tiny", "--save-cluster", path]
    done = run(module("plan", *options))
    assert done.stdout.count("wrote ") == 1 and "measured on 2 processes" in done.stdout
    machine = read_machine(str(path))
    assert (machine.nodes, machine.ranks_per_node, machine.device) == (1, 2, "cpu")
    assert machine.gbit_within > 0 and machine.flops("fp32") > 1e6
    assert main(["--cluster", str(path), "--arch", "scomoe_tiny"]) == 0


def test_torchrun_starts_a_probe(tmp_path):
    path = tmp_path / "mine.toml"
    command = ["torchrun", "--nproc-per-node", "2", "--standalone", "-m", "user_dir.cli.plan"]
    done = run([*command, "--probe", "--arch", "scomoe_tiny", "--save-cluster", path])
    assert done.stdout.count("wrote ") == 1 and done.stdout.count("measured on 2 processes") == 1
    assert read_machine(str(path)).ranks_per_node == 2


def test_a_probe_that_fails_says_why_once():
    options = ["--probe", "--processes", "2", "--moe-expert-count", "7", "--arch", "scomoe_tiny"]
    done = run(module("plan", *options), check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("scomoe-plan: error: --moe-expert-count (7)")
