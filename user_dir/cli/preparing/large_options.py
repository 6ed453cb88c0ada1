"""The options that the commands for large corpora have in common."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.option_values import finite_number, positive
from user_dir.text.large.worker_pool import default_workers

# What a command with these options advises where memory runs out.
MEMORY_CURE = "try fewer --workers or a smaller --input-sentence-size"


@dataclass(frozen=True)
class LargeOptions:
    """What all large corpora are prepared with."""

    directions: str | None
    vocab_size: int
    input_sentence_size: int
    character_coverage: float
    max_pieces: int
    workers: int
    keep_work: bool

    @staticmethod
    def of(args: argparse.Namespace) -> "LargeOptions":
        """Read what `add_large_options` added, and `--directions`."""
        return LargeOptions(**{name: getattr(args, name) for name in LargeOptions.__annotations__})


def add_large_options(
    parser: argparse.ArgumentParser,
    *,
    vocab_size: int,
    input_sentence_size: int,
    character_coverage: float,
    max_pieces: int,
) -> None:
    """Add the options that both commands have, with their defaults."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write, work folder included")
    numbers: list[tuple[str, Any, str]] = [
        ("--vocab-size", vocab_size, "most pieces of the joint sentencepiece BPE"),
        ("--input-sentence-size", input_sentence_size, "sentences the pieces are learned from"),
        ("--max-pieces", max_pieces, "longer sentences are not trained on"),
        ("--workers", default_workers(), "processes"),
    ]
    for flag, default, text in numbers:
        add(flag, type=positive, default=default, help=f"{text} (default: %(default)s)")
    add(
        "--character-coverage",
        type=finite_number(least=0.98, most=1),
        default=character_coverage,
        help="share of the characters that pieces cover (default: %(default)s)",
    )
    add("--keep-work", action="store_true", help="keep text and pieces in OUT/work at the end")
    add(
        "--overwrite",
        action="store_true",
        help="redo what other options than before change, instead of refusing",
    )
