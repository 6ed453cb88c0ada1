"""A run's statistics: what is written when, and that a restart leaves them whole."""

from pathlib import Path

import pytest

from tests.support.commands import module, run, train_arguments
from tests.support.tasks import multilingual
from user_dir.reporting.statistics_file import STATISTICS, read_records


def train(corpus: Path, save_dir: Path, *options: str | Path) -> list[dict]:
    arguments = train_arguments(corpus / "bin", save_dir)
    at = arguments.index("--task")
    arguments[at : at + 6] = multilingual(corpus)
    options = (*options, "--encoder-langtok", "tgt", "--moe-statistics-interval", "2")
    run(module("train", *options[:2], *arguments, *options[2:]))
    return list(read_records(save_dir / STATISTICS))


@pytest.fixture(scope="module")
def run_of_two(small_corpus, tmp_path_factory):
    """The folder and the records of a run on two processes that was ended and went on on one."""
    folder = tmp_path_factory.mktemp("statistics")
    logs = ("--tensorboard-logdir", folder / "board")
    train(small_corpus, folder, "--processes", "2", "--max-update", "3", *logs)
    # As if it had been killed after an update that no checkpoint holds, while it wrote.
    with (folder / STATISTICS).open("a") as file:
        file.write('{"kind":"train","updates":4,"loss":1}\n{"kind":"train","upd')
    return folder, train(small_corpus, folder, "--processes", "1", "--max-update", "4", *logs)


def test_records_are_due_at_intervals_and_validations_and_none_comes_twice(run_of_two):
    _, records = run_of_two
    places = [(record["kind"], record["updates"]) for record in records]
    before = [("run", 0), ("train", 2), ("valid", 3)]
    assert places == [*before, ("run", 3), ("train", 4), ("valid", 4)]


def test_loads_add_up_over_directions(run_of_two):
    _, records = run_of_two
    for record in records:
        if record["kind"] == "run":
            continue
        assert record["layers"].keys() == records[0]["kinds"].keys()
        for layer in record["layers"].values():
            by_expert = zip(*layer["by_direction"].values(), strict=True)
            assert [sum(counts) for counts in by_expert] == layer["load"]
            assert set(layer["by_direction"]) == {"en-de", "de-en"}
            assert layer["tokens"] == sum(layer[f"tokens_{r}"] for r in ("local", "node", "global"))


def test_the_first_record_says_what_the_run_is(run_of_two):
    _, (first, *_) = run_of_two
    assert first["layout"] == {
        "nodes": 2, "ranks_per_node": 2, "experts": 8, "experts_per_rank": 2
    }  # fmt: skip
    assert first["options"]["moe_statistics_interval"] == 2
    assert first["parameters"]["total"] > first["parameters"]["active"] > 0
    assert first["directions"] == ["en-de", "de-en"]


def test_loads_are_in_tensorboard(run_of_two):
    folder, (first, *_) = run_of_two
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "board" / "moe"))
    events.Reload()
    assert set(events.Tags()["histograms"]) == {
        f"{kind}/{name}/load" for kind in ("train", "valid") for name in first["kinds"]
    }
