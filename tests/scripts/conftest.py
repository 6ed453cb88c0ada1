"""Small trained models, made once and shared by the tests of the commands."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import module, run

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


@pytest.fixture(scope="session")
def three_languages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of short numbers, English with German and French."""
    out = tmp_path_factory.mktemp("three_languages") / "numbers"
    options = ["--languages", "de,fr", "--max-digits", "4", "--vocab-size", "120"]
    options += ["--train-pairs-per-language", "400", "--valid-lines", "8", "--test-lines", "100"]
    run(module("prepare_numbers", "--out", out, *options))
    return out


@pytest.fixture(scope="session")
def bilingual(three_languages: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """English to German, laid out for 2 nodes x 2 ranks, saved after epochs and updates."""
    save_dir = tmp_path_factory.mktemp("bilingual")
    options = ["--task", "scomoe_translation", "-s", "en", "-t", "de"]
    options += ["--max-update", "80", "--save-interval", "10", "--save-interval-updates", "40"]
    _train(three_languages, save_dir, options)
    return Trained(three_languages, save_dir)


@pytest.fixture(scope="session")
def multilingual(three_languages: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All four directions in one model, told the target language by the source's first token."""
    save_dir = tmp_path_factory.mktemp("multilingual")
    lists = three_languages / "bin"
    options = ["--task", "scomoe_multilingual_translation", "--encoder-langtok", "tgt"]
    options += ["--lang-dict", str(lists / "langs.txt"), "--lang-pairs", str(lists / "pairs.txt")]
    _train(three_languages, save_dir, [*options, "--max-update", "50", "--no-epoch-checkpoints"])
    return Trained(three_languages, save_dir)


@pytest.fixture(scope="session")
def clustered(three_languages: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """English to German, SCoMoE-Feat with token clustering."""
    save_dir = tmp_path_factory.mktemp("clustered")
    options = ["--task", "scomoe_translation", "-s", "en", "-t", "de", "--no-epoch-checkpoints"]
    options += ["--scomoe-type", "feat", "--token-cluster", "--max-update", "50"]
    options += ["--encoder-layers", "4", "--decoder-layers", "4"]
    _train(three_languages, save_dir, options)
    return Trained(three_languages, save_dir)


def _train(corpus: Path, save_dir: Path, options: Sequence[str]) -> None:
    command = [sys.executable, "-m", "fairseq_cli.train", corpus / "bin", "--save-dir", save_dir]
    for side in "source", "target":
        command += [f"--max-{side}-positions", str(MAX_POSITIONS)]
    run([*command, *_TRAINING.split(), *options])
