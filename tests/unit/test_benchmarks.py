"""The benchmarks run, write their figures, and compare things that are equal."""

import json
import logging
import statistics
import sys
import warnings
from argparse import ArgumentParser
from dataclasses import asdict

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY

from benchmarks import (
    assignment,
    layer,
    learning_variants,
    limits,
    network,
    network_bytes,
    planning,
    recording,
    sorting,
)
from benchmarks.layer import Cell, build_layer
from benchmarks.limits_cases import CASES
from benchmarks.one_hot import OneHotMoe
from benchmarks.processes import measure_command
from benchmarks.timing import RESULTS, measure, peak_memory
from benchmarks.trainers import SILENCED
from tests.support.commands import ROOT, run
from user_dir.fast_moe.clustering.sorting import differentiable_sort
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.routing.capacity import expert_capacity
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.transformer import architectures  # noqa: F401 (registers them)
from user_dir.transformer.model import ScomoeModel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def logs_as_before():
    """A benchmark has a process of its own, whose logs it silences; here others follow it."""
    loggers = [logging.getLogger(name) for name in SILENCED]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(
    "benchmark", [assignment, layer, recording, sorting], ids=lambda m: m.__name__
)
def test_a_small_run_prints_a_table_and_writes_json(benchmark, monkeypatch, tmp_path, capsys):
    name = benchmark.__name__.rpartition(".")[2]
    arguments = [name, "--small", "--repeat", "2", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    assert capsys.readouterr().out.startswith("| ")
    result = json.loads((tmp_path / f"{name}.small.json").read_text())
    assert result["benchmark"] == name
    assert result["hardware"]["torch"] == torch.__version__
    assert result["records"]
    for record in result["records"]:
        seconds = record["seconds"]
        for timing in [seconds] if "median" in seconds else seconds.values():
            assert 0 < timing["min"] <= timing["median"] <= timing["max"]
            assert timing["repetitions"] == 2


def test_a_profile_names_what_the_layer_calls(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["layer", "--profile", layer.SMALL[0].name])
    layer.main()
    assert "aten::" in capsys.readouterr().out


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity", [0.5, 2.0])
def test_one_hot_dispatch_equals_the_layer(top_k, capacity):
    cell = Cell(24, 8, 4, top_k=top_k, capacity=capacity, hidden=12)
    moe = build_layer(cell).double()
    with torch.no_grad():
        moe.gate.projection.weight.mul_(3)  # decided enough for experts to overflow
    one_hot = OneHotMoe(moe.gate, moe.experts, capacity=cell.slots)
    x_TD, grad_TD = torch.randn(2, 24, 8, dtype=torch.float64)
    inputs = [x_TD.clone().requires_grad_() for _ in range(2)]
    tokens = rank_tokens(torch.zeros(1, 24, dtype=torch.bool), torch.tensor([0]), num_hosted=1)
    y_VTD, report = moe(inputs[0].unsqueeze(0), tokens)
    y_TD, balance = one_hot(inputs[1])
    torch.testing.assert_close(y_VTD[0], y_TD)
    torch.testing.assert_close(report.balance_loss_V[0], balance.double(), rtol=1e-5, atol=1e-6)
    ((y_VTD[0] * grad_TD).sum() + report.balance_loss_V.sum()).backward()
    ((y_TD * grad_TD).sum() + balance).backward()
    close = {"rtol": 1e-5, "atol": 1e-6}  # the balance loss is in float32
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **close)
    torch.testing.assert_close(moe.gate.projection.weight.grad, one_hot.gate.grad, **close)
    for stacked, separate in zip(
        moe.experts.parameters(), zip(*one_hot.experts, strict=True), strict=True
    ):
        torch.testing.assert_close(stacked.grad, torch.stack([p.grad for p in separate]))


def test_the_matrix_formula_equals_differentiable_sorting():
    torch.manual_seed(0)
    x_TD = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    scores_TG = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    group_T = torch.randint(0, 3, (12,))
    order_T = group_T.argsort(stable=True)
    grad_TD = torch.randn(12, 5, dtype=torch.float64)
    ours = differentiable_sort(
        x_TD[None],
        scores_TG[None],
        group_VT=group_T[None],
        order_VT=order_T[None],
        temperature=sorting.TEMPERATURE,
    )[0]
    formula = sorting.sort_by_matrix(x_TD, scores_TG, group_T, order_T)
    torch.testing.assert_close(ours, formula)
    wanted = torch.autograd.grad(formula, (x_TD, scores_TG), grad_TD)
    found = torch.autograd.grad(ours, (x_TD, scores_TG), grad_TD)
    torch.testing.assert_close(found, wanted)


def test_peak_memory_sees_what_is_freed_again():
    def call() -> None:
        torch.zeros(1000, 256)  # freed before the next one
        torch.zeros(500, 256)

    assert peak_memory(call, CPU) == 1000 * 256 * 4


def test_a_budget_ends_the_rounds_but_not_before_two():
    calls = []
    timings = measure(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        device=CPU,
        repeat=5,
        budget=0,
    )
    assert calls == ["a", "b", "a", "b"]
    assert timings["a"].repetitions == 2


def test_a_solver_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(assignment, "LIMIT_SECONDS", 0.5)
    solver = assignment.Guarded(assignment.by_libbase)
    try:
        # 7 tokens in 2 groups: libbase waits for ever.
        assert solver.call(torch.ones(7, 2)) is None
        assert solver.call(torch.eye(2)) is not None
    finally:
        solver.close()


def test_the_gpu_script_shows_what_it_would_run():
    out = run(["bash", "benchmarks/gpu.sh", "--device", "cpu", "--small", "--dry-run"]).stdout
    for name in ("layer", "sorting", "assignment"):
        assert f"'benchmarks.{name}' '--device' 'cpu' '--small'" in out


def test_the_network_table_takes_its_limit_from_bytes_and_waiting():
    times = {
        # Waits for 2 of 3 seconds.
        "gshard": {"serial": [3.0, 3.1, 2.9], "waiting": [2.0], "overlap": []},
        # Half of the bytes: at best 1 + 2 / 2 seconds.
        "seq": {"serial": [2.5, 2.4, 2.6], "waiting": [1.2], "overlap": [2.0, 2.0, 2.1]},
    }
    for name, num_bytes in ("gshard", 12_000_000), ("seq", 6_000_000):
        times[name] |= {"bytes": num_bytes * 1.01, "formula": num_bytes}
    gshard, seq = (
        dict(zip(network.HEADER, row, strict=True))
        for row in network.table_rows({"mbit": 24.24, "variants": times})
    )
    assert (gshard["limit"], gshard["serial"], gshard["overlap"]) == ("1.00", "1.00", "")
    assert (seq["limit"], seq["serial"], seq["of limit"]) == ("1.50", "1.20", "80%")
    assert (seq["overlap"], seq["of formula"]) == ("1.50", "1.010")
    # A node's 3.03 MB take a second at 24.24 Mbit/s; overlap takes half of it off the step.
    assert seq["hidden"] == "50%"


def test_variants_are_added_with_the_gshard_that_took_turns_with_them(monkeypatch):
    def times(seconds):
        of_both = {"serial": [seconds], "waiting": [seconds / 2], "overlap": []}
        return of_both | {"bytes": 8, "formula": 8}

    record = {
        "mbit": 100,
        "size": asdict(network.SMALL),
        "variants": {"gshard": times(4.0), "seq": times(2.0)},
    }
    links, asked = [], []
    monkeypatch.setattr(network, "shape", lambda names, mbit: links.append(mbit))

    def run(names, size, *, repeat, stacks):
        asked.append((size, repeat, stacks))
        return {"gshard": times(6.0), "switch": times(2.0)}

    monkeypatch.setattr(network, "_run", run)
    (changed,) = network._measure_more(["a", "b"], [record], ["switch"], repeat=3)
    assert links == [100] and asked == [(network.SMALL, 3, ["gshard", "switch"])]
    assert list(changed["variants"]) == ["gshard", "switch", "seq"]  # the order of all stacks
    speeds = {row[0]: row[6] for row in network.table_rows(changed)}
    assert speeds == {"gshard": "1.00", "switch": "3.00", "seq": "2.00"}


def test_nothing_can_be_added_to_what_was_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(network, "_refuse", lambda args: None)
    call = ["network", "--only", "switch", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit, match=r"--only adds to .*network\.json"):
        network.main()
    elsewhere = {"hardware": {"cpu": "another"}, "records": []}
    (tmp_path / "network.json").write_text(json.dumps(elsewhere))
    with pytest.raises(SystemExit, match="measured with another"):
        network.main()
    assert json.loads((tmp_path / "network.json").read_text()) == elsewhere


def test_bytes_between_more_nodes_are_counted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["network_bytes", "--small", "--results", str(tmp_path)])
    network_bytes.main()
    assert "| gshard, hierarchical " in capsys.readouterr().out
    records = json.loads((tmp_path / "network_bytes.small.json").read_text())["records"]
    counted = {record["variant"]: record["bytes a rank"] for record in records}
    for nodes in network_bytes.NODES:
        # 16 tokens a rank, two experts a rank: slots of a node's two ranks, for six layers.
        slots = expert_capacity(16, 4 * nodes, top_k=2, factor=1.0)
        to_a_node = 6 * 2 * (4 * 32) * 4 * slots
        assert counted["gshard"][str(nodes)] == (nodes - 1) * to_a_node
        limited = [counted[name][str(nodes)] for name in counted if name.startswith("one node")]
        assert 0 < limited[1] < limited[0]
        assert counted["gating dropout"][str(nodes)] == pytest.approx(0.8 * (nodes - 1) * to_a_node)


@pytest.mark.parametrize(("option", "named"), [("--device=cuda", "--device"), ("--full", "--full")])
def test_the_network_refuses_what_it_cannot_do(option, named, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["network", option, "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match=named):
        network.main()
    assert not list(tmp_path.iterdir())


def test_every_variant_of_learning_is_accepted():
    parser = ArgumentParser()
    ScomoeModel.add_args(parser)
    settings = {}
    for name in learning_variants.ALL:
        options = learning_variants.NUMBERS.changed_by(name)
        args = parser.parse_args(["--moe-nodes", "2", "--moe-ranks-per-node", "2", *options])
        args.arch = "scomoe_tiny"
        ARCH_CONFIG_REGISTRY[args.arch](args)
        settings[name] = str(MoeConfig.from_args(args))
    peers = [settings[name] for name in learning_variants.PEERS]
    assert len({settings["gshard"], *peers}) == 1 + len(peers)


def test_plans_are_near_the_recorded_steps():
    """Of GShard, Seq and Feat behind two slow links, when GShard's rate without one is known."""
    records = planning.plan_recorded()
    wanted = {
        ("gshard", "serial"),
        *((n, s) for n in ("seq", "feat") for s in ("serial", "overlap")),
    }
    found = {(one["mbit"], one["exchange"], one["schedule"]) for one in records}
    assert len(found & {(m, *w) for m, _, _ in found for w in wanted}) == 2 * len(wanted)
    for one in records:
        if one["exchange"].removesuffix("+cluster") in ("gshard", "seq", "feat"):
            ratio = one["planned"] / statistics.median(one["measured"])
            assert 0.85 < ratio < 1.15, (one["mbit"], one["exchange"], one["schedule"], ratio)


def run_limits(monkeypatch, folder, *options):
    """Measure at tiny sizes; the records and the page with their table."""
    page = folder / "page.md"
    page.write_text(f"Before\n{limits.BEGIN}\nold\n{limits.END}\nAfter\n")
    arguments = ["--small", "--results", folder, "--work", folder / "work", "--page", page]
    monkeypatch.setattr(sys, "argv", list(map(str, ["limits", *arguments, *options])))
    limits.main()
    return json.loads((folder / "limits.small.json").read_text())["records"], page.read_text()


def test_a_limit_is_measured_and_put_into_its_page(monkeypatch, tmp_path):
    def preparing_only(work, sizes):
        return [next(CASES["short-pairs"](work, sizes))]

    monkeypatch.setattr(limits, "CASES", {"short-pairs": preparing_only})
    (record,), page = run_limits(monkeypatch, tmp_path, "--pairs", "300")
    assert record["what"] == "300 pairs of 2 to 6 words prepared"
    assert record["processor_seconds"] > 0
    assert record["largest_mib"] > 10
    assert max(record["tenths_mib"]) == record["together_mib"] > 5
    assert page == f"Before\n{limits.BEGIN}\n{limits.table([record])}\n{limits.END}\nAfter\n"
    assert "| 300 pairs of 2 to 6 words prepared | `scomoe-prepare` |" in page


@pytest.mark.slow
def test_all_limits_are_measured(monkeypatch, tmp_path):
    records, _ = run_limits(monkeypatch, tmp_path)
    assert list(dict.fromkeys(record["case"] for record in records)) == list(CASES)


def test_the_page_of_limits_has_the_table_of_what_was_measured():
    records = json.loads((RESULTS / "limits.json").read_text())["records"]
    assert limits.table(records) in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")


def test_the_memory_of_a_command_is_seen_while_it_has_it(tmp_path):
    statement = ["-n1", "-r1", "-s", "import time", "x = b'x' * (100 << 20); time.sleep(0.5)"]
    usage = measure_command(["timeit", *statement, "del x; time.sleep(0.7)"], tmp_path / "log")
    assert 100 < usage.together_mib < usage.largest_mib + 5 < 150
    assert usage.tenths_mib[-1] < 50  # which it has given back
    with pytest.raises(SystemExit, match="timeit ended with 1"):
        measure_command(["timeit", "1 / 0"], tmp_path / "log")
