"""`scomoe-plan --probe` under a real Slurm: two nodes, each with two processes."""

import shlex
import sys

import pytest

from tests.slurm.cluster import ROOT, SlurmCluster
from user_dir.planning.machine import read_machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_srun_starts_a_probe(cluster: SlurmCluster, tmp_path):
    saved, output, script = (tmp_path / name for name in ("mine.toml", "job.out", "job.sh"))
    command = [sys.executable, "-m", "user_dir.cli.plan", "--probe", "--arch", "scomoe_tiny"]
    command += ["--save-cluster", saved]
    script.write_text(
        "#!/usr/bin/env bash\n"
        f"#SBATCH --nodes=2 --ntasks-per-node=2 --output={output}\n"
        f"export PYTHONPATH={ROOT} OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0\n"
        f"srun {shlex.join(map(str, command))}\n"
    )
    shown = cluster.wait_for(cluster.submit(script), ["COMPLETED", "FAILED"], seconds=180)
    text = output.read_text()
    assert shown["JobState"] == "COMPLETED", text[-3000:]
    assert text.count("wrote ") == 1 and "measured on 4 processes" in text
    machine = read_machine(str(saved))
    assert (machine.nodes, machine.ranks_per_node) == (2, 2)
    assert not machine.assumed  # there are links of both kinds
    assert machine.gbit_between > 0 and machine.latency_between_us > 0
