"""A process that holds a share of the experts does not hold the rest of the file on the way."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import DATA, FIXTURE, altered, set_options
from tests.support.commands import ROOT, environment
from tests.support.ranks import run_processes
from user_dir.cli.translate import get_parser
from user_dir.translation.decoding import Decoding
from user_dir.translation.engine import Engine
from user_dir.translation.resolve import resolve

HIDDEN = 32768  # hidden features of an expert: 8 experts in each of 4 layers have 128 MiB
EXPERTS_BYTES = 4 * 8 * 2 * 16 * HIDDEN * 4
PROCESSES = 4


def with_large_experts(path: Path) -> Path:
    """The fixture's model with larger experts, and without the optimizer's state."""
    shapes = {
        "weight1_LDH": (8, 16, HIDDEN),
        "bias1_LH": (8, HIDDEN),
        "weight2_LHD": (8, HIDDEN, 16),
    }

    def change(state):
        set_options(state, moe_expert_ffn_dim=HIDDEN)
        state["last_optimizer_state"] = None
        for name in state["model"]:
            shape = shapes.get(name.rpartition(".")[2])
            if shape is not None:
                state["model"][name] = torch.zeros(shape)

    return altered(path, change)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def growth_while_loading(small: Decoding, large: Decoding) -> int:
    """By how much a large model's share raises the peak of a process that has had a small one."""
    Engine(small)
    before = peak_bytes()
    Engine(large)
    return peak_bytes() - before


def spread(path: Path) -> Decoding:
    """What scomoe-translate --spread-experts hands to each process."""
    arguments = ["--path", str(path), "--data", str(FIXTURE / "bin"), "--cpu"]
    arguments += ["--spread-experts", "--processes", str(PROCESSES)]
    return resolve(get_parser().parse_args(arguments))


def test_translating_with_spread_experts_takes_the_own_share_only(tmp_path):
    large = with_large_experts(tmp_path / "large.pt")
    assert large.stat().st_size > EXPERTS_BYTES
    both = spread(FIXTURE / "checkpoint.pt"), spread(large)
    for growth in run_processes(growth_while_loading, *both, processes=PROCESSES):
        # The own share in the file, and in the model with what makes its first values.
        assert EXPERTS_BYTES / PROCESSES < growth < 3.5 * EXPERTS_BYTES / PROCESSES


def train(save_dir: Path, *options: str) -> int:
    """Train a model with large experts; returns the peak of the largest process, in bytes."""
    command = [sys.executable, "-m", "user_dir.cli.train", *DATA, "--save-dir", save_dir, "--cpu"]
    command += ["--arch", "scomoe_tiny", "--encoder-embed-dim", "16", "--moe-freq", "1"]
    command += ["--encoder-ffn-embed-dim", "16", "--moe-expert-ffn-dim", str(HIDDEN)]
    command += ["--encoder-attention-heads", "2", "--decoder-attention-heads", "2"]
    command += ["--encoder-layers", "2", "--decoder-layers", "2", "--max-tokens", "64"]
    command += ["--moe-nodes", "2", "--moe-ranks-per-node", "2", "--disable-validation"]
    command += ["--criterion", "moe_cross_entropy", "--optimizer", "moe_adam", "--lr", "1e-3"]
    measured = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", measured, *map(str, [*command, *options])],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1]) * 1024


@pytest.mark.slow
def test_resuming_takes_hardly_more_than_training(tmp_path):
    run = tmp_path / "run"
    train(run, "--max-update", "1", "--no-epoch-checkpoints")
    file_bytes = (run / "checkpoint_last.pt").stat().st_size
    assert file_bytes > 3 * EXPERTS_BYTES  # Adam has two states for each weight
    several = ["--processes", str(PROCESSES), "--no-save"]
    fresh = train(tmp_path / "none", *several, "--max-update", "1")
    resumed = train(run, *several, "--max-update", "2")
    # The own share of the file, which the system takes back when it needs the memory.
    assert resumed - fresh < 1.5 * file_bytes / PROCESSES
