"""Prepare OPUS-100 (English and 99 languages) from its tarball or the unpacked folder.

Works in stages inside --out; started again, it goes on after the last finished stage.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.first_stages import Reading, read_texts
from user_dir.cli.preparing.large_corpus import file_identity, is_finished, run_last_stages
from user_dir.cli.preparing.large_options import MEMORY_CURE, LargeOptions, add_large_options
from user_dir.cli.preparing.large_plan import Folder, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.text.large.encoding import Limits
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.pairs import Pair
from user_dir.text.sources.opus100 import (
    choose,
    find_supervised,
    names_of,
    published_pairs,
    texts_of,
    unpack,
)

COMMAND = "multilingual_preprocess"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/corpora.md describes what is written."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_large_options(
        parser,
        vocab_size=64_000,
        input_sentence_size=10_000_000,
        character_coverage=0.99995,
        max_pieces=100,
    )
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--raw", type=Path, help="folder in which the tarball was unpacked")
    origin.add_argument("--tarball", type=Path, help="opus-100-corpus-v1.0.tar.gz")
    parser.add_argument(
        "--directions",
        default="all",
        help='such as en-de,fr-en, or "all", both ways for every pair (default: %(default)s)',
    )
    parser.add_argument(
        "--drop-test-overlap",
        action="store_true",
        help="train on no sentence that occurs in any test set",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug, memory_cure=MEMORY_CURE)


def _prepare(args: argparse.Namespace) -> None:
    names_of(args.directions)  # a mistake in it is told at once
    log = StageLog(args.out, overwrite=args.overwrite, tell=step)
    with log.locked():
        if is_finished(log, _plan(args, _inputs(args, or_nothing=True), [])):
            return
        inputs = _inputs(args)
        supervised = find_supervised(args.raw) if args.raw else _unpacked(log, args, inputs)
        directions, pairs = choose(args.directions, published_pairs(supervised))
        step(f"{len(directions)} directions, {len(pairs)} language pairs from {supervised}")
        plan = _plan(args, inputs, directions)
        reading = Reading(
            {pair: texts_of(supervised, pair) for pair in pairs},
            drop_test_overlap=args.drop_test_overlap,
            drop_undecodable=True,
        )
        run_last_stages(log, plan, read_texts(log, plan, reading))


def _plan(args: argparse.Namespace, inputs: list[list[Any]], directions: list[Pair]) -> Plan:
    return Plan(
        folder=Folder(args.out),
        directions=directions,
        limits={"train": Limits(most=args.max_pieces), "valid": Limits(), "test": Limits()},
        given=LargeOptions.of(args),
        options={"drop_test_overlap": args.drop_test_overlap},
        inputs=inputs,
    )


def _inputs(args: argparse.Namespace, *, or_nothing: bool = False) -> list[list[Any]]:
    try:
        if args.tarball:
            return file_identity([args.tarball])
        supervised = find_supervised(args.raw)
    except (CorpusError, OSError) as error:
        if or_nothing:
            return []
        if isinstance(error, OSError):
            raise CorpusError(f"--tarball ({args.tarball}): {error.strerror}") from None
        raise
    _, pairs = choose(args.directions, published_pairs(supervised))
    splits = [texts for pair in pairs for texts in texts_of(supervised, pair).values()]
    return file_identity(path for texts in splits for text in texts for path in text.files)


def _unpacked(log: StageLog, args: argparse.Namespace, inputs: list[list[Any]]) -> Path:
    """Unpack the tarball, or the chosen pairs of it, into the work folder."""
    folder = Folder(args.out).work / "supervised"
    settings = {"inputs": inputs, "directions": args.directions}
    log.run(Stage("unpacked", settings, [folder], partial(_unpack, args, folder)))
    return folder


def _unpack(args: argparse.Namespace, folder: Path) -> Facts:
    return {"pairs": unpack(args.tarball, folder, names_of(args.directions), step)}


if __name__ == "__main__":
    sys.exit(main())
