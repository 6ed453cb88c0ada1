"""What the commands that prepare a corpus share: options, messages, fairseq's preprocessing."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from user_dir.option_values import positive
from user_dir.text.corpus import SPLITS
from user_dir.text.leftovers import name_without
from user_dir.text.pairs import Pair


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


def binarise(
    pair: Pair,
    pieces: Path,
    destination: Path,
    *,
    splits: Sequence[str] = SPLITS,
    workers: int = 1,
) -> None:
    """Let fairseq's own preprocess write one pair with the dictionary of all languages."""
    # Here, not at the top: --help and mistakes in the options need no fairseq.
    from fairseq import options
    from fairseq_cli import preprocess

    level = preprocess.logger.level
    preprocess.logger.setLevel(logging.WARNING)
    try:
        with name_without(",", pieces) as prefix:  # which fairseq would split there
            arguments = ["--source-lang", pair.source, "--target-lang", pair.target]
            # Not --joined-dictionary: it refuses a target that another pair has already.
            arguments += [f"--{side}dict={prefix}/dict.txt" for side in ("src", "tgt")]
            arguments += [f"--{split}pref={prefix}/{split}.{pair}" for split in splits]
            arguments += [f"--destdir={destination}", "--workers", str(workers)]
            preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        preprocess.logger.setLevel(level)
        _close_log_files(preprocess.logger)
    # It names temporary folders, and nothing else in the folder depends on time or place.
    (destination / "preprocess.log").unlink()


def _close_log_files(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            handler.close()
