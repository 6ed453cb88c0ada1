"""The table of all methods: nothing is left out or empty, and figures stand where they belong."""

import json
import sys

import pytest

from benchmarks import methods_picture
from benchmarks.learning_variants import ALL
from benchmarks.methods import all_methods
from benchmarks.network_stacks import STACKS
from tests.unit.test_learning_results import record


def stack(serial, *, overlap=(), waiting=1.0, num_bytes=8.0):
    return {
        **{"serial": [serial], "overlap": list(overlap), "waiting": [waiting]},
        **{"bytes": num_bytes, "formula": num_bytes},
    }


@pytest.fixture
def folder(tmp_path):
    """Results of some methods: GShard takes 3 s, of which it waits for 2, or 5 and 4."""
    learned = [record("gshard", 1, 5.0), record("seq", 1, 5.1, megabytes=4.0)]
    learned += [record("z-loss", 1, 4.9), record("seq+cluster by token", 1, 4.8, megabytes=3.0)]
    learned += [record("gating dropout", 1, 5.0, megabytes=8.0), record("dense", 1, 5.3)]
    (tmp_path / "learning.json").write_text(json.dumps({"numbers": learned, "debian-short": []}))
    variants = {
        "gshard": stack(3.0, waiting=2.0),
        "gshard, hierarchical": stack(2.7, num_bytes=6.0),
        "seq": stack(1.8, overlap=[1.5], num_bytes=4.0),
        "seq+cluster": stack(1.5, overlap=[1.2], num_bytes=3.0),
    }
    slower = {**variants, "gshard": stack(5.0, waiting=4.0)}
    network = {"records": [{"mbit": 1, "variants": slower}, {"mbit": 2, "variants": variants}]}
    (tmp_path / "network.json").write_text(json.dumps(network))
    counted = [
        {"variant": name, "bytes a rank": {"2": size, "4": 2 * size}}
        for name, size in (("gshard", 10.0), ("seq", 4.0))
    ]
    (tmp_path / "network_bytes.json").write_text(json.dumps({"records": counted}))
    return tmp_path


def show(folder, monkeypatch, capsys, *options):
    """The table by method and column."""
    call = ["x", "--results", str(folder), "--corpus", "numbers", *options]
    monkeypatch.setattr(sys, "argv", call)
    methods_picture.main()
    header, _, *rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in capsys.readouterr().out.splitlines()
    ]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_every_method_has_a_row_without_an_empty_cell(folder, monkeypatch, capsys):
    rows = show(folder, monkeypatch, capsys, "debian-short")
    methods = all_methods()
    assert list(rows) == [method.name for method in methods]
    assert {method.learned for method in methods} - {None} == set(ALL)
    assert {method.stack for method in methods} - {None} == set(STACKS)
    assert all(all(row.values()) for row in rows.values())
    assert rows["Seq"]["bits, debian-short"] == "not measured"


def test_figures_are_the_methods_own_or_say_whose(folder, monkeypatch, capsys):
    rows = show(folder, monkeypatch, capsys)
    seq = rows["Seq"]
    assert (seq["bits, numbers"], seq["bytes"], seq["bytes, 4 nodes"]) == ("+0.100", "0.40", "0.40")
    assert seq["step at 67% exchange"] == "0.60 / 0.50"
    assert seq["step at 80% exchange"] == "0.36 / 0.30"
    clustered = rows["Seq + clusters of random tokens"]
    assert clustered["bits, numbers"] == "-0.200" and clustered["bytes"] == "0.30"
    assert clustered["step at 67% exchange"] == "(0.50 / 0.40)"
    assert clustered["remarks"] == "steps are those of Seq + clusters by scores (the paper's)"
    shared = rows["GShard, hierarchical"]
    assert shared["bits, numbers"] == "(+0.000)" and shared["bytes"] == "0.75"
    assert shared["step at 67% exchange"] == "0.90"  # there is nothing to overlap
    assert rows["z-loss"]["step at 67% exchange"] == "(1.00)"
    assert rows["dense"]["step at 80% exchange"] == "sends nothing"
    assert rows["gating dropout"]["step at 80% exchange"] == "not measured"
    thresholds = rows["Seq, thresholds, + clusters of similar tokens"]
    assert thresholds["remarks"] == "steps are those of Seq, thresholds, + clusters by scores"
    assert rows["Seq in every layer"]["bits, numbers"] == "no such model"


def test_the_picture_shows_what_has_both_numbers(folder, monkeypatch, capsys):
    out = folder / "methods.svg"
    show(folder, monkeypatch, capsys, "--out", str(out), "--leave-out", "z-loss")
    drawn = out.read_text()
    assert drawn.count(">GShard, hierarchical<") == 2  # of both panels
    assert drawn.count(">gating dropout<") == 1  # its steps were not measured
    assert ">z-loss<" not in drawn and ">Feat<" not in drawn
    assert "step, of GShard's at 67% exchange" in drawn.replace("’", "'")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "nothing"], "there is no method nothing"),
        (["--corpus", "multi30k"], "nothing was measured"),
    ],
)
def test_what_is_not_there_is_said(folder, monkeypatch, capsys, options, says):
    with pytest.raises(SystemExit):
        show(folder, monkeypatch, capsys, *options)
    assert says in capsys.readouterr().err
