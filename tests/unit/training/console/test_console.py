"""What of a log a person sees, and where the rest goes."""

import io
import json
import logging
import re
import sys
import warnings
from contextlib import contextmanager

import pytest

from user_dir.text.scoring.train_log import read_train_log
from user_dir.training.console.console import SAID
from user_dir.training.console.lines import in_time, update_line
from user_dir.training.console.run_log import RunLog

UPDATE = {
    **{"epoch": 1, "update": 0.4, "loss": "9.1", "nll_loss": "8.2", "wps": "3412.3", "wall": "7"},
    **{"num_updates": "100", "moe_balance_loss": "1.0213", "moe_bytes_between": "1234567"},
}
VALID = {
    **{"epoch": 1, "valid_loss": "8.1", "valid_nll_loss": "7.2", "valid_bleu": "3.45"},
    **{"valid_num_updates": "100", "valid_best_loss": "8.05"},
}
SAVED = "Saved checkpoint m/checkpoint1.pt (epoch 1 @ 100 updates, score 8.1) (writing took 1.26 s"
OURS = logging.getLogger("fairseq_cli.train")


@contextmanager
def run_log(folder, *, process_index=0):
    """As in a run, once the folder is the run's."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        with RunLog(folder, process_index=process_index, subsets=["valid"], bars=True) as log:
            log.begin_file()
            yield log
    finally:
        logging.getLogger().setLevel(level)


def log_a_run():
    """What fairseq logs, some of it for nobody's eyes."""
    OURS.info("a configuration")
    logging.getLogger("train_inner").info(json.dumps(UPDATE))
    logging.getLogger("valid").info(json.dumps(VALID))
    logging.getLogger("fairseq.checkpoint_utils").info(f"{SAVED}econds)")
    OURS.info("early stop since valid performance hasn't improved for last 3 runs")
    OURS.info("done", extra=SAID)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_sees_a_line_for_what_matters(tmp_path, capsys):
    with run_log(tmp_path) as log:
        log.console.expect_updates(0, 300, seconds_at_most=1e9)
        log.console.end_update(100)
        log_a_run()
    seen, errors = capsys.readouterr()
    update, *others = seen.splitlines()
    expected = "update    100  epoch 0.40  loss 9.100  nll 8.200  3,412 tokens/s  balance 1.021  "
    assert re.fullmatch(re.escape(expected + "1.23 MB between nodes") + r"  \d+ s left", update)
    validation, *rest = others
    assert re.fullmatch(
        r"validation  valid after update 100  loss 8\.100  nll 7\.200  bleu 3\.45  "
        r"best loss 8\.050  \d+ s",
        validation,
    )
    assert rest == [
        "checkpoint  m/checkpoint1.pt after update 100  1.3 s",
        "early stop since valid performance hasn't improved for last 3 runs",
        "done",
    ]
    assert not errors


def test_the_file_has_all_of_it_and_goes_on(tmp_path):
    for _ in range(2):
        with run_log(tmp_path):
            log_a_run()
    log = read_train_log(tmp_path / "train.log")
    assert (log.updates, log.wall_seconds, log.valid_nll) == (100, 7, 7.2)
    assert (tmp_path / "train.log").read_text().count(" | INFO | fairseq_cli.train | done\n") == 2


def test_warnings_are_said_once_on_standard_error_and_pythons_in_the_file_alone(tmp_path, capsys):
    with run_log(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(2):
            OURS.warning("something is odd")
            warnings.warn("of Python", stacklevel=1)
    seen, errors = capsys.readouterr()
    assert not seen
    assert errors == "scomoe-train: warning: something is odd\n"
    log = (tmp_path / "train.log").read_text()
    assert [log.count(one) for one in ("is odd", "UserWarning: of Python")] == [2, 2]


def test_what_comes_before_the_folder_is_ours_comes_first(tmp_path):
    with RunLog(tmp_path, process_index=0, subsets=[], bars=False) as log:
        OURS.warning("first")
        assert not (tmp_path / "train.log").exists()
        log.begin_file()
        OURS.warning("second")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.rpartition(" | ")[2] for line in lines] == ["first", "second"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_error_that_ends_a_run_is_in_the_file_unless_the_folder_is_anothers(tmp_path, is_ours):
    with (
        pytest.raises(ValueError),
        RunLog(tmp_path, process_index=0, subsets=[], bars=False) as log,
    ):
        if is_ours:
            log.begin_file()
        raise ValueError("no such thing")
    path = tmp_path / "train.log"
    assert path.exists() == is_ours
    assert not is_ours or " | ERROR | scomoe-train | no such thing\nTraceb" in path.read_text()


def test_other_processes_are_silent_and_log_their_warnings(tmp_path, capsys):
    with run_log(tmp_path, process_index=3) as log:
        assert log.console is None
        log_a_run()
        OURS.warning("odd")
    assert capsys.readouterr() == ("", "")
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    assert line.endswith(" | WARNING | fairseq_cli.train | process 3 | odd")


def test_without_a_folder_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_log(None):
        log_a_run()
    assert "done" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "train.log").mkdir()
    with run_log(tmp_path):
        log_a_run()
    seen, errors = capsys.readouterr()
    assert seen.endswith("done\n")
    assert errors.count("train.log cannot be written (Is a directory); training goes on") == 1


def test_a_terminal_shows_how_far_training_and_a_validation_are(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with run_log(tmp_path) as log:
        log.console.expect_updates(2, 8, seconds_at_most=1e9)
        log.console.begin_validation("valid", 4)
        log_a_run()
    drawn = terminal.getvalue()
    assert "training:  25%" in drawn
    assert "| 2/8 [" in drawn
    assert "validation on valid:   0%" in drawn


def test_a_console_that_nobody_reads_does_not_end_training(tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with run_log(tmp_path) as log:
        log.console.say("a header")
        log_a_run()
        log.console.end_update(101)
    assert "| done\n" in (tmp_path / "train.log").read_text()


def test_a_line_has_what_fairseq_logged_and_no_more():
    dense = {name: UPDATE[name] for name in ("num_updates", "loss", "nll_loss")}
    assert update_line(dense, float("inf")) == "update    100  loss 9.100  nll 8.200"
    one_node = {**dense, "moe_bytes_between": "0", "moe_balance_loss": "1"}
    assert update_line(one_node, float("inf")).endswith("nll 8.200  balance 1.000")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "60 s"), (99.4, "99 s"), (99.6, "2 min"), (5400, "90 min"),
     (7200, "2 h 00 min"), (100_000, "27 h 47 min")],
)  # fmt: skip
def test_times_are_as_exact_as_one_wants(seconds, words):
    assert in_time(seconds) == words


def test_elsewhere_a_long_validation_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    with run_log(tmp_path) as log:
        log.console.begin_validation("valid", 4)
        log.console.end_batch()
        monkeypatch.setattr("user_dir.training.console.progress._SECONDS_BETWEEN_LINES", -1.0)
        log.console.end_batch()
    assert capsys.readouterr().out == "validation  valid: 2 of 4 batches\n"


def test_time_left_ends_with_the_time_that_a_run_may_take(tmp_path, capsys):
    with run_log(tmp_path) as log:
        log.console.expect_updates(0, float("inf"), seconds_at_most=600)
        log.console.end_update(100)
        logging.getLogger("train_inner").info(json.dumps(UPDATE))
    assert capsys.readouterr().out.endswith("  10 min left\n")
