"""What the commands that prepare a corpus share: options and messages."""

import argparse
from pathlib import Path

from user_dir.option_values import positive


def add_output_options(
    parser: argparse.ArgumentParser, *, vocab_size: int | None, vocab_size_help: str
) -> None:
    """Add --out, --vocab-size with its default (None: depends on other options), --overwrite."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--vocab-size",
        type=positive,
        default=vocab_size,
        help=f"most pieces of the joint sentencepiece BPE (default: {vocab_size_help})",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a prepared corpus at --out once the new one is complete",
    )


def step(text: str) -> None:
    """Tell the user what was done; flushed, for pipes and job logs."""
    print(text, flush=True)
