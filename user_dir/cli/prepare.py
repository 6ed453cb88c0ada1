"""Prepare one's own parallel text: in as many languages and files as there are.

Works in stages inside --out; started again, it goes on after the last finished stage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.first_stages import Reading, read_texts
from user_dir.cli.preparing.large_corpus import file_identity, is_finished, run_last_stages
from user_dir.cli.preparing.large_options import MEMORY_CURE, LargeOptions, add_large_options
from user_dir.cli.preparing.large_plan import DETECTED, Cutting, Folder, Plan
from user_dir.cli.preparing.own_sets import Sets, chosen_directions, find_sets
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.option_values import finite_number, positive
from user_dir.text.given_pieces import MARKERS
from user_dir.text.large.encoding import Limits
from user_dir.text.large.resumable import StageLog
from user_dir.text.pairs import Pair, language_name
from user_dir.text.subwords import read_model

COMMAND = "scomoe-prepare"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/your-own-text.md shows them at work."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for split, text in {
        "train": "training text: two files such as corpus.en corpus.de, line N the same sentence; "
        "or .tsv, .jsonl or .parquet files, or a folder with train.en-de.en and train.en-de.de; "
        "any of them .gz, .bz2, .xz or .zst; once more for more text or more languages",
        "valid": "validation text, as --train",
        "test": "test text, as --train",
    }.items():
        add(
            f"--{split}",
            action="append",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help=text,
        )
    for split in "valid", "test":
        add(
            f"--{split}-lines",
            type=positive,
            metavar="N",
            help=f"hold N different sentences of each pair out of --train where --{split} has none",
        )
    add(
        "-s",
        "--source-lang",
        metavar="LANG",
        help="language of the first files or columns, where they do not tell",
    )
    add("-t", "--target-lang", metavar="LANG", help="language of the second ones")
    add(
        "--directions",
        metavar="LIST",
        help="such as en-de,de-en (default: of one pair the first language to the second, of "
        "several both ways)",
    )
    add(
        "--ratio",
        type=finite_number(least=1),
        help="sentences with more times the other side's pieces are not trained on",
    )
    add(
        "--drop-test-overlap",
        action="store_true",
        help="train on no sentence that occurs in a --test set",
    )
    cutting = parser.add_mutually_exclusive_group()
    cutting.add_argument(
        "--spm-model",
        type=Path,
        metavar="FILE",
        help="cut text with this sentencepiece model, instead of learning one",
    )
    cutting.add_argument(
        "--pre-tokenized",
        nargs="?",
        const=DETECTED,
        choices=(DETECTED, *MARKERS),
        help="the text is in pieces already, with spaces between; they are joined for scoring as "
        "of fairseq's --post-process, or as their marks tell",
    )
    add_large_options(
        parser,
        vocab_size=8000,
        input_sentence_size=10_000_000,
        character_coverage=0.9999,
        max_pieces=250,
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug, memory_cure=MEMORY_CURE)


def _prepare(args: argparse.Namespace) -> None:
    sets = find_sets(
        {"train": args.train, "valid": args.valid, "test": args.test},
        held_out={"valid": args.valid_lines, "test": args.test_lines},
        languages=_languages(args),
    )
    if args.spm_model:
        read_model(args.spm_model, flag="--spm-model")  # a mistake in it is told at once
    directions = chosen_directions(args.directions, sets.pairs)
    sets = sets.needed_for(directions)
    plan = _plan(args, sets, directions)
    log = StageLog(args.out, overwrite=args.overwrite, tell=step)
    with log.locked():
        if is_finished(log, plan):
            return
        step(f"{len(sets.pairs)} language pair(s), {len(directions)} direction(s)")
        reading = Reading(sets.texts, sets.held_out, drop_test_overlap=args.drop_test_overlap)
        run_last_stages(log, plan, read_texts(log, plan, reading))


def _languages(args: argparse.Namespace) -> Pair | None:
    if (args.source_lang is None) != (args.target_lang is None):
        raise CorpusError("-s and -t go together: name both languages, or neither")
    if args.source_lang is None:
        return None
    pair = Pair(
        language_name(args.source_lang, flag="-s"), language_name(args.target_lang, flag="-t")
    )
    if pair.source == pair.target:
        raise CorpusError(f"-s and -t must be two different languages, not both {pair.source}")
    return pair


def _plan(args: argparse.Namespace, sets: Sets, directions: list[Pair]) -> Plan:
    return Plan(
        folder=Folder(args.out),
        directions=directions,
        limits={
            "train": Limits(most=args.max_pieces, ratio=args.ratio),
            "valid": Limits(),
            "test": Limits(),
        },
        given=LargeOptions.of(args),
        options={
            "sets": sets.record(),
            "held_out": sets.held_out,
            "drop_test_overlap": args.drop_test_overlap,
        },
        inputs=file_identity(sets.files),
        cutting=Cutting(model=args.spm_model, pre_tokenized=args.pre_tokenized),
    )


if __name__ == "__main__":
    sys.exit(main())
