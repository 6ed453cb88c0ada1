"""Random kills of a training of two processes; the script does as many as one likes."""

import pytest

from tests.faults import random_kills


@pytest.mark.slow
def test_nothing_is_lost_by_random_kills(tmp_path):
    out = tmp_path / "out"
    assert random_kills.main(["--kills", "12", "--seed", "7", "--out", str(out)]) == 0
    print(out.read_text())
