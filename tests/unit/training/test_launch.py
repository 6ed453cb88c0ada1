"""Where a process stands, by the variables of its launcher, and what fairseq is told."""

import stat

import pytest

from user_dir.cli.train import fairseq_arguments, main
from user_dir.errors import UserError
from user_dir.training.failures import LostPeers
from user_dir.training.launch import find_place
from user_dir.training.local_processes import tell_end

SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
}


@pytest.fixture
def fake_scontrol(tmp_path, monkeypatch):
    script = tmp_path / "scontrol"
    script.write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_a_lone_process_has_no_place():
    assert find_place({}) is None
    assert find_place({"RANK": "0", "WORLD_SIZE": "1"}) is None
    # The batch script of a Slurm job of several tasks is no task.
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None


def test_torchruns_variables_give_the_place():
    place = find_place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert (place.process_index, place.num_processes, place.local_index) == (3, 4, 1)
    assert place.init_method == "env://"


@pytest.mark.parametrize(("node", "local", "index"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)])
def test_sruns_tasks_of_a_node_are_consecutive_in_any_distribution(
    fake_scontrol, node, local, index
):
    cyclic = {"SLURM_PROCID": str(node + 2 * local)}
    env = {**SLURM, **cyclic, "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
    place = find_place(env)
    assert place.process_index == index
    assert place.init_method.startswith("tcp://n1:")


def test_uneven_tasks_are_refused(fake_scontrol):
    env = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}
    with pytest.raises(UserError, match="--ntasks-per-node"):
        find_place(env)


def test_fairseq_is_told_everything_it_would_guess_wrong():
    place = find_place({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    added = fairseq_arguments(["data", "--cpu"], place)
    text = " ".join(added)
    assert "--distributed-world-size 2 --distributed-rank 1" in text
    assert "--distributed-no-spawn" in added
    assert "--ddp-backend legacy_ddp" in text
    assert "--distributed-backend gloo" in text


def test_a_rank_of_ones_own_is_refused():
    place = find_place({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="--distributed-world-size"):
        fairseq_arguments(["data", "--distributed-world-size", "3"], place)
    with pytest.raises(UserError, match=r"--distributed-world-size is set .* --processes"):
        fairseq_arguments(["data", "--distributed-world-size", "2"], None)


@pytest.mark.parametrize("value", ["0", "two", "-1", "", "²"])
def test_a_wrong_number_of_processes_is_refused(value, capsys):
    assert main(["--processes", value, "data"]) == 2
    assert "--processes must be a whole number of at least 1" in capsys.readouterr().err


def test_the_first_process_of_a_machine_says_what_all_have_met(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    for variables in {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"SLURM_LOCALID": "1"}, {}:
        assert tell_end(UserError("wrong everywhere"), variables) == 2
        assert tell_end(LostPeers("lost here"), variables) == 3
        assert bool(waits) == ("1" in variables.values())
        waits.clear()
    errors = capsys.readouterr().err
    assert errors.count("wrong everywhere") == errors.count("lost here") == 4


def test_processes_are_not_started_twice(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--processes", "2", "data"]) == 2
    assert "leave --processes out" in capsys.readouterr().err
