import errno
import json
from dataclasses import replace
from functools import partial

import pytest

from user_dir.errors import UserError
from user_dir.text.large.resumable import Stage, StageLog, format_size


@pytest.fixture
def said():
    return []


def start(out, said, **options):
    log = StageLog(out, **{"overwrite": False, "tell": said.append, **options})
    with log.locked():
        return log


def write(path, content, runs=None):
    path.write_text(content)
    if runs is not None:
        runs.append(path.name)
    return {"length": len(content)}


def test_a_finished_stage_is_skipped_and_its_facts_are_remembered(tmp_path, said):
    runs = []
    path = tmp_path / "out" / "work" / "a"
    stage = Stage("a", {"n": 1}, [path], partial(write, path, "abc", runs))
    assert start(tmp_path / "out", said).run(stage) == {"length": 3}
    assert start(tmp_path / "out", said).run(stage) == {"length": 3}
    assert runs == ["a"] and said[-1] == "a: done already"


@pytest.mark.parametrize("damage", ["missing", "shorter", "marker"])
def test_a_stage_with_damaged_files_runs_again(tmp_path, said, damage):
    runs = []
    path = tmp_path / "out" / "work" / "a"
    stage = Stage("a", {}, [path], partial(write, path, "abc", runs))
    start(tmp_path / "out", said).run(stage)
    if damage == "missing":
        path.unlink()
    elif damage == "shorter":
        path.write_text("ab")
    else:
        (tmp_path / "out" / "work" / "stages" / "a.json").write_text('{"settings":')
    start(tmp_path / "out", said).run(stage)
    assert runs == ["a", "a"] and path.read_text() == "abc"


def test_other_settings_are_refused_unless_overwritten(tmp_path, said):
    path = tmp_path / "out" / "work" / "a"
    work = partial(write, path, "abc")
    start(tmp_path / "out", said).run(Stage("a", {"n": 1, "m": 1}, [path], work))
    changed = Stage("a", {"n": 2, "m": 1}, [path], partial(write, path, "abcd"))
    with pytest.raises(UserError, match=r"other settings \(n; stage a\)"):
        start(tmp_path / "out", said).run(changed)
    assert path.read_text() == "abc"
    assert start(tmp_path / "out", said, overwrite=True).run(changed) == {"length": 4}


def test_long_settings_are_compared_but_not_written_out(tmp_path, said):
    path, marker = tmp_path / "out" / "work" / "a", tmp_path / "out" / "work" / "stages" / "a.json"
    files = [f"train.en-{number}" for number in range(1000)]
    stage = Stage("a", {"files": files}, [path], partial(write, path, "abc"))
    start(tmp_path / "out", said).run(stage)
    assert marker.stat().st_size < 1000
    assert start(tmp_path / "out", said).facts(stage) == {"length": 3}
    with pytest.raises(UserError, match=r"other settings \(files; stage a\)"):
        start(tmp_path / "out", said).run(replace(stage, settings={"files": files[:-1]}))
    # As earlier versions wrote it.
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "settings": stage.settings}))
    assert start(tmp_path / "out", said).facts(stage) == {"length": 3}


def test_a_failed_stage_leaves_nothing_and_the_others_stay(tmp_path, said):
    log = start(tmp_path / "out", said)
    first, second = (tmp_path / "out/work" / name for name in "ab")

    def fill_disk():
        second.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    stages = [
        Stage("a", {}, [first], partial(write, first, "abc")),
        Stage("b", {}, [second], fill_disk),
    ]
    with pytest.raises(UserError, match=r"^b: no room left for .*finished stages are kept"):
        log.run_all("both", stages, workers=1)
    assert not second.exists() and log.facts(stages[0]) == {"length": 3}
    assert log.facts(stages[1]) is None


def test_side_by_side_stages_return_facts_in_their_order(tmp_path, said):
    paths = [tmp_path / "out/work" / name for name in "abcde"]
    stages = [
        Stage(path.name, {}, [path], partial(write, path, "x" * size))
        for size, path in enumerate(paths)
    ]
    log = start(tmp_path / "out", said)
    for _ in range(2):
        facts = log.run_all("all", stages, workers=3)
        assert [one["length"] for one in facts] == [0, 1, 2, 3, 4]


def test_two_runs_do_not_share_a_folder(tmp_path, said):
    log = StageLog(tmp_path / "out", overwrite=False, tell=said.append)
    with log.locked(), pytest.raises(UserError, match="another run is preparing"), log.locked():
        pass


def test_sizes_are_written_for_people():
    assert [format_size(n) for n in (0, 999, 1234, 5_600_000, 7.8e10)] == [
        "0 bytes",
        "999 bytes",
        "1.23 kB",
        "5.6 MB",
        "78.0 GB",
    ]
