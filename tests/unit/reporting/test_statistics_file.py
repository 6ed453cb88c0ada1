"""Records of a run are read whole, however the run ended."""

import math

from user_dir.reporting.statistics_file import append_record, drop_later_records, read_records


def test_a_record_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "statistics.jsonl"
    for updates in (10, 20):
        append_record(path, {"kind": "train", "updates": updates, "loss": math.nan, "load": [1, 2]})
    path.write_bytes(path.read_bytes()[:-9])
    (only,) = read_records(path)
    assert only == {"kind": "train", "updates": 10, "loss": None, "load": [1, 2]}


def test_what_is_no_record_is_left_out(tmp_path):
    path = tmp_path / "statistics.jsonl"
    path.write_bytes(b'[1]\n{"kind": "train"}\n\xff\n\n{"updates": "7"}\n')
    append_record(path, {"kind": "valid", "updates": 3})
    assert [record["kind"] for record in read_records(path)] == ["valid"]


def test_records_of_updates_that_are_made_anew_are_dropped(tmp_path):
    path = tmp_path / "statistics.jsonl"
    drop_later_records(path, 7)
    assert not path.exists()
    for updates in (0, 5, 7, 9):
        append_record(path, {"kind": "train", "updates": updates})
    with path.open("a") as file:
        file.write('{"kind": "tr')
    drop_later_records(path, 7)
    append_record(path, {"kind": "train", "updates": 8})
    assert [record["updates"] for record in read_records(path)] == [0, 5, 7, 8]
