"""Corpora that many tests read, made once a session."""

from pathlib import Path

import pytest

from tests.support.commands import module, run


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
