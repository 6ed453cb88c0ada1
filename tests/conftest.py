"""Corpora and small trained models that many tests read, made once a session."""

import signal
from pathlib import Path

import pytest

from tests.support.commands import module, run
from tests.support.trained import Trained, train_small

# A shell makes what it runs in the background deaf to Ctrl-C, and so all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory) -> Path:
    """Numbers in words, English and German, 300 training pairs; the prepared folder."""
    out = tmp_path_factory.mktemp("corpus") / "numbers"
    run(
        module(
            "prepare_numbers",
            *("--out", out, "--languages", "de", "--train-pairs-per-language", "300"),
            *("--valid-lines", "40", "--test-lines", "40", "--vocab-size", "150"),
        )
    )
    return out


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
    train_small(three_languages, save_dir, options)
    return Trained(three_languages, save_dir)


@pytest.fixture(scope="session")
def multilingual(three_languages: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All four directions in one model, told the target language by the source's first token."""
    save_dir = tmp_path_factory.mktemp("multilingual")
    lists = three_languages / "bin"
    options = ["--task", "scomoe_multilingual_translation", "--encoder-langtok", "tgt"]
    options += ["--lang-dict", str(lists / "langs.txt"), "--lang-pairs", str(lists / "pairs.txt")]
    train_small(
        three_languages, save_dir, [*options, "--max-update", "50", "--no-epoch-checkpoints"]
    )
    return Trained(three_languages, save_dir)


@pytest.fixture(scope="session")
def clustered(three_languages: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """English to German, SCoMoE-Feat with token clustering."""
    save_dir = tmp_path_factory.mktemp("clustered")
    options = ["--task", "scomoe_translation", "-s", "en", "-t", "de", "--no-epoch-checkpoints"]
    options += ["--scomoe-type", "feat", "--token-cluster", "--max-update", "50"]
    options += ["--encoder-layers", "4", "--decoder-layers", "4"]
    train_small(three_languages, save_dir, options)
    return Trained(three_languages, save_dir)
