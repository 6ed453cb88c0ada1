"""The log of a run on a disk that is full."""

import logging
from pathlib import Path

import pytest

from user_dir.training.console.run_log import RunLog
from user_dir.training.console.train_log import NAME


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_run_its_own_end(tmp_path, caplog):
    (tmp_path / NAME).symlink_to("/dev/full")
    ends = OSError(28, "No space left on device", str(tmp_path / "checkpoint_last.pt"))
    with (
        pytest.raises(OSError) as end,
        RunLog(tmp_path, process_index=0, subsets=[], bars=False) as log,
    ):
        log.begin_file()
        logging.getLogger("fairseq").warning("which it does not take")
        raise ends
    assert end.value is ends
