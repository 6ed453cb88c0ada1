"""Prepare OPUS-100 (English and 99 languages) from its tarball or the unpacked folder.

Works in stages inside --out; started again, it goes on after the last finished stage.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from user_dir.cli.command import run_command
from user_dir.cli.preparing.large_corpus import file_identity, is_finished, run_last_stages
from user_dir.cli.preparing.large_options import LargeOptions, add_large_options
from user_dir.cli.preparing.large_plan import Folder, PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.text.corpus import SPLITS
from user_dir.text.large.encoding import Limits
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.pairs import Pair
from user_dir.text.sources.opus100 import (
    choose,
    find_supervised,
    names_of,
    published_pairs,
    split_files,
    unpack,
    write_pair_text,
    write_test_hashes,
)

COMMAND = "multilingual_preprocess"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/corpora.md describes what is written."""
    parser = argparse.ArgumentParser(
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
    return run_command(COMMAND, lambda: _prepare(args))


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
        run_last_stages(
            log, plan, _read(log, plan, supervised, pairs, dropped=args.drop_test_overlap)
        )


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
    found = [split_files(supervised, pair, split) for pair in pairs for split in SPLITS]
    return file_identity(path for one in found if one for path in (one.source, one.target))


def _unpacked(log: StageLog, args: argparse.Namespace, inputs: list[list[Any]]) -> Path:
    """Unpack the tarball, or the chosen pairs of it, into the work folder."""
    folder = Folder(args.out).work / "supervised"
    settings = {"inputs": inputs, "directions": args.directions}
    log.run(Stage("unpacked", settings, [folder], partial(_unpack, args, folder)))
    return folder


def _unpack(args: argparse.Namespace, folder: Path) -> Facts:
    return {"pairs": unpack(args.tarball, folder, names_of(args.directions), step)}


def _read(
    log: StageLog, plan: Plan, supervised: Path, pairs: Sequence[Pair], *, dropped: bool
) -> list[PairText]:
    """Clean all pairs side by side."""
    hashes = plan.folder.work / "test_sentences.bin"
    log.run(
        Stage(
            "test sentences",
            plan.text_settings,
            [hashes],
            partial(_write_hashes, supervised, pairs, hashes),
        )
    )
    outputs = {pair: {split: plan.folder.text(split, pair) for split in SPLITS} for pair in pairs}
    stages = [
        Stage(
            f"text {pair}",
            plan.text_settings,
            [path for one in files.values() for path in (one.source, one.target)],
            partial(
                write_pair_text,
                supervised,
                pair,
                files,
                test_hashes=hashes,
                drop_test_overlap=dropped,
            ),
        )
        for pair, files in outputs.items()
    ]
    facts = log.run_all("text", stages, workers=plan.given.workers)
    _tell_text(pairs, facts, dropped=dropped)
    return [
        PairText(
            pair,
            {split: [outputs[pair][split]] for split in one["lines"]},
            [one["lines"]["train"]],
        )
        for pair, one in zip(pairs, facts, strict=True)
    ]


def _write_hashes(supervised: Path, pairs: Sequence[Pair], path: Path) -> Facts:
    return {"sentences": write_test_hashes(supervised, pairs, path)}


def _tell_text(pairs: Sequence[Pair], facts: Sequence[Facts], *, dropped: bool) -> None:
    for pair, one in zip(pairs, facts, strict=True):
        for split, reasons in one["dropped"].items():
            if reasons:
                what = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
                step(f"  {pair}, {split}: dropped {what}")
        if one["test_overlap"]:
            done = "dropped" if dropped else "kept (--drop-test-overlap drops them)"
            step(f"  {pair}: {one['test_overlap']:,} training pairs are in test sets, {done}")
        if missing := [split for split in SPLITS if split not in one["lines"]]:
            step(f"  {pair}: has no {' and no '.join(missing)} set")
    total = sum(one["test_overlap"] for one in facts)
    step(f"training pairs with a sentence of any test set: {total:,}")


if __name__ == "__main__":
    sys.exit(main())
