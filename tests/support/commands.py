"""Runs the project's commands as a user would, and reads what they log."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment of a command: one thread, ours found, no variables of a launcher."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("SLURM")}
    bin_folder = str(Path(sys.executable).parent)
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin_folder}:{kept['PATH']}",
    }


def run(command: Sequence[str | Path], *, timeout: float = 240, check: bool = True):
    """Run a command from the repository's root; its output is in the failure if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, command))} ended with {done.returncode}\n"
            f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
    return done


def module(name: str, *arguments: str | Path) -> list[str | Path]:
    """The command `python -m user_dir.cli.<name> arguments…`."""
    return [sys.executable, "-m", f"user_dir.cli.{name}", *arguments]


def train_arguments(
    data: Path, save_dir: Path, *, max_tokens: int = 52, width: int = 16
) -> list[str | Path]:
    """A small model on 2 nodes x 2 ranks, three small batches an update, no dropout.

    With the small corpus and 52 tokens an epoch has 57 batches, so 15 steps of four ranks: in
    the third micro-batch of the fifth and last update three ranks have no batch.
    """
    return [
        data,
        *("--user-dir", "user_dir", "--task", "scomoe_translation", "-s", "en", "-t", "de"),
        *("--arch", "scomoe_tiny", "--encoder-layers", "2", "--decoder-layers", "2"),
        *("--encoder-embed-dim", str(width), "--encoder-ffn-embed-dim", "16"),
        *("--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
        *("--moe-nodes", "2", "--moe-ranks-per-node", "2", "--moe-expert-count", "8"),
        *("--criterion", "moe_cross_entropy", "--label-smoothing", "0.1", "--dropout", "0"),
        *("--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "0.5"),
        *("--lr", "3e-3", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "10"),
        *(
            "--max-tokens",
            str(max_tokens),
            "--update-freq",
            "3",
            "--required-batch-size-multiple",
            "1",
        ),
        *("--log-format", "json", "--log-interval", "1", "--seed", "3"),
        *("--save-dir", save_dir, "--num-workers", "0", "--cpu"),
    ]


def updates_of(output: str, tag: str = "train_inner") -> dict[int, dict[str, float]]:
    """The json line of each update."""
    lines = [
        line.partition(f"| {tag} |")[2] for line in output.splitlines() if f"| {tag} |" in line
    ]
    records = [json.loads(line) for line in lines]
    number = "num_updates" if tag.startswith("train") else f"{tag}_num_updates"
    return {
        int(record[number]): {key: float(value) for key, value in record.items()}
        for record in records
    }
