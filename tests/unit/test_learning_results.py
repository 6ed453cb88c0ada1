"""What learning runs gave is gathered, has intervals that are right, and is drawn."""

import json
import sys

import pytest

from benchmarks import learning_picture, learning_results, upcycling
from benchmarks.learning_results import add_runs, estimates, summarise
from benchmarks.scatter import label_heights


def record(variant, seed, nll, *, megabytes=10.0):
    return {
        **{"variant": variant, "seed": seed, "updates": 4, "parameters": 10**6},
        **{"nll_half": nll + 1, "nll_end": nll, "bleu_half": 0.0, "bleu_end": 0.0},
        **{"balance": 1.0, "tokens_per_second": 1.0, "bytes_between": megabytes * 1e6},
    }


def test_an_interval_comes_from_the_spread_that_all_variants_share():
    found = estimates({"a": [1.0, 3.0], "b": [5.0, 5.0, 5.0], "c": [7.0]})
    # Squares 2 over 1 + 2 degrees of freedom; Student's quantile of 97.5 % at 3 is 3.18245.
    spread = (2 / 3) ** 0.5
    assert found["a"].half_width == pytest.approx(3.18245 * spread / 2**0.5, rel=1e-5)
    assert found["b"].half_width == pytest.approx(3.18245 * spread / 3**0.5, rel=1e-5)
    assert found["c"].half_width == pytest.approx(3.18245 * spread, rel=1e-5)
    assert [found[name].mean for name in "abc"] == [2, 5, 7]
    assert estimates({"a": [1.0]})["a"].half_width is None


def test_a_variant_is_compared_seed_by_seed():
    records = [record("gshard", 1, 5.0), record("gshard", 2, 5.4)]
    records += [record("seq", 2, 5.5), record("seq", 1, 5.1), record("seq", 3, 9.0)]
    control, seq = summarise(records)
    assert control.difference is None
    assert seq.seeds == [1, 2, 3]
    assert seq.difference.mean == pytest.approx(0.1)
    assert seq.difference.half_width == pytest.approx(0, abs=1e-12)


def test_runs_are_gathered_and_drawn(tmp_path, monkeypatch, capsys):
    results = tmp_path / "learning.json"
    for nll in (5.0, 4.9):  # the second time in place of the first
        (tmp_path / "runs" / "gshard-seed1").mkdir(parents=True, exist_ok=True)
        text = json.dumps(record("gshard", 1, nll))
        (tmp_path / "runs" / "gshard-seed1" / "result.json").write_text(text)
        assert [r["nll_end"] for r in add_runs("numbers", tmp_path / "runs", results)] == [nll]
    call = ["x", "--corpus", "numbers", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", call)
    learning_results.main()
    assert "4.900" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*call, "--out", str(tmp_path / "picture.svg")])
    learning_picture.main()
    assert "GShard" in (tmp_path / "picture.svg").read_text()
    monkeypatch.setattr(sys, "argv", [*call[:2], "multi30k", *call[3:]])
    with pytest.raises(SystemExit):
        learning_results.main()
    assert "no complete run" in capsys.readouterr().err


def test_labels_keep_apart_where_they_are_near():
    heights = label_heights([(0, 1.0), (1, 1.0), (2, 1.05), (50, 1.0)], apart=0.1, near=10)
    first, second, third, far = heights
    assert second - first > 0.098 and third - second > 0.098 and far == 1.0
    assert (first + second + third) / 3 == pytest.approx((1.0 + 1.0 + 1.05) / 3)  # none wanders off


def test_scores_have_intervals_where_they_were_taken():
    scored = [record("gshard", seed, 5.0) | {"bleu_end": bleu} for seed, bleu in ((1, 9), (2, 11))]
    gshard, seq = summarise([*scored, record("seq", 1, 5.0)])
    # The standard deviation is 2 ** 0.5; Student's quantile of 97.5 % at 1 is 12.7062.
    assert gshard.bleu.mean == 10
    assert gshard.bleu.half_width == pytest.approx(12.7062, rel=1e-5)
    assert gshard.chrf is None
    assert seq.bleu is None


def test_a_mixture_of_a_dense_model_stands_beside_those_from_scratch(monkeypatch):
    known = {
        "multi30k-short": [record("dense", 1, 5.0), record("gshard", 1, 5.2)],
        "multi30k-long": [record("dense", 1, 3.0), record("seq", 1, 2.0)],
    }
    monkeypatch.setattr(upcycling, "read_results", known.get)
    run = {"run": "dense, then gshard", "seed": 1, "updates": 240, "nll_half": 5.5, "nll_end": 4.5}
    assert upcycling.table_rows([run, run | {"seed": 2, "nll_end": 4.5}]) == [
        ("dense", "240", "0", "1", "5.000 ± 0.000"),
        ("gshard", "0", "240", "1", "5.200 ± 0.000"),
        ("dense", "480", "0", "1", "4.000 ± 0.000"),
        ("dense, then gshard", "240", "240", "2", "4.500 ± 0.000"),
    ]
