"""Small trained models for the tests of the commands."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run

# Longest source and target of the models, in tokens.
MAX_POSITIONS = 64

_TRAINING = """
--user-dir user_dir --arch scomoe_tiny --cpu --max-tokens 512 --seed 1
--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 64 --encoder-ffn-embed-dim 64
--moe-nodes 2 --moe-ranks-per-node 2 --criterion moe_cross_entropy --label-smoothing 0.1
--optimizer moe_adam --lr 8e-3 --lr-scheduler inverse_sqrt --warmup-updates 20
--required-batch-size-multiple 1 --disable-validation --log-format simple
"""


@dataclass(frozen=True)
class Trained:
    """A prepared numbers corpus and the folder of a run on it."""

    corpus: Path
    save_dir: Path

    @property
    def data(self) -> Path:
        return self.corpus / "bin"

    @property
    def checkpoint(self) -> Path:
        return self.save_dir / "checkpoint_last.pt"

    def raw(self, pair: str, language: str) -> Path:
        """The test set's text."""
        return self.corpus / "raw" / f"test.{pair}.{language}"


def train_small(corpus: Path, save_dir: Path, options: Sequence[str]) -> None:
    """Train a model on a prepared corpus; the options name the task and when to end."""
    arguments = small_training(corpus, save_dir, options)
    run([sys.executable, "-m", "fairseq_cli.train", *arguments])


def small_training(corpus: Path, save_dir: Path, options: Sequence[str]) -> list[str]:
    """The arguments of `train_small`, for whoever calls `scomoe-train` in its own process."""
    arguments = [str(corpus / "bin"), "--save-dir", str(save_dir)]
    for side in "source", "target":
        arguments += [f"--max-{side}-positions", str(MAX_POSITIONS)]
    return [*arguments, *_TRAINING.split(), *options]
