"""Prepare Debian's package descriptions for translation between English and fifteen languages."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.prepared_folder import add_output_options, step
from user_dir.cli.preparing.small_corpus import write_prepared_folder
from user_dir.option_values import count, positive, whole_number
from user_dir.text.corpus import SPLITS, Corpus
from user_dir.text.pairs import languages_of, parse_directions
from user_dir.text.sources.apt import fetch_lists
from user_dir.text.sources.debian import (
    DebianPlan,
    choose_directions,
    read_many_way,
    split_debian,
)
from user_dir.text.sources.debian_lists import ENGLISH, LANGUAGES, find_lists
from user_dir.text.sources.debian_mirror import fetch_from_mirror
from user_dir.text.whole_output import check_replaceable

COMMAND = "prepare_debian"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/debian.md describes what is written."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add_output_options(parser, vocab_size=16_000, vocab_size_help="16000")
    add = parser.add_argument
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--raw", type=Path, help="folder with Translation-LANGUAGE files")
    origin.add_argument(
        "--mirror", help="such as http://deb.debian.org/debian (default: those that apt knows)"
    )
    add("--suite", default="stable", help="of the mirror (default: %(default)s)")
    add("--components", default="main", help="of the mirror, a list (default: %(default)s)")
    add(
        "--download-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "scomoe" / "debian",
        help="where downloaded files are kept (default: %(default)s)",
    )
    add(
        "--directions",
        default="all",
        help='such as en-de,de-en, or "all", both ways between English and every language '
        "(default: %(default)s)",
    )
    for flag, number, default, text in (
        ("--min-sentences", count, 1000, 'languages with fewer are not in "all"'),
        ("--max-pairs", positive, None, "most training pairs of two languages"),
        ("--test-sentences", positive, 1000, "English sentences for test"),
        ("--valid-sentences", positive, 200, "English sentences for validation"),
        ("--least-languages", positive, 8, "that a held-out sentence exists in, besides English"),
        ("--seed", whole_number(), 1, "of the split"),
    ):
        add(flag, type=number, default=default, help=f"{text} (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug)


def _prepare(args: argparse.Namespace) -> None:
    check_replaceable(args.out, overwrite=args.overwrite)
    lists = find_lists(args.raw) if args.raw else _download(args)
    step(f"reading package descriptions in {len(lists)} languages")
    texts = read_many_way(lists)
    directions = choose_directions(args.directions, texts, min_sentences=args.min_sentences)
    plan = DebianPlan(
        test_sentences=args.test_sentences,
        valid_sentences=args.valid_sentences,
        least_languages=args.least_languages,
        max_pairs=args.max_pairs,
        seed=args.seed,
    )
    corpus = split_debian(texts, directions, plan)
    left_out = [language for language in texts if language not in corpus.languages]
    if left_out:
        step(f"left out: {', '.join(f'{one} ({len(texts[one]):,})' for one in left_out)}")
    _tell_sizes(corpus)
    write_prepared_folder(corpus, args.out, vocab_size=args.vocab_size, overwrite=args.overwrite)


def _download(args: argparse.Namespace) -> dict[str, list[Path]]:
    folder = args.download_dir.expanduser()
    languages = set(LANGUAGES)
    if args.directions != "all":
        languages.update(languages_of(parse_directions(args.directions, flag="--directions")))
    wanted = sorted(languages - {ENGLISH})
    if args.mirror is None:
        step(f"getting package descriptions through apt to {folder}")
        place = fetch_lists(
            folder,
            languages=wanted,
            otherwise="name a mirror with --mirror, such as http://deb.debian.org/debian, or a "
            "folder of lists with --raw",
        )
        return find_lists(place)
    step(f"downloading from {args.mirror} to {folder}")
    return fetch_from_mirror(
        args.mirror,
        folder,
        suite=args.suite,
        components=args.components.split(","),
        languages=wanted,
        tell=step,
    )


def _tell_sizes(corpus: Corpus) -> None:
    step(f"{'pair':<9}" + "".join(f"{split:>9}" for split in SPLITS))
    for pair in corpus.pairs:
        sizes = (len(corpus.texts[split, pair][0]) for split in SPLITS)
        step(f"{pair!s:<9}" + "".join(f"{size:>9,}" for size in sizes))


if __name__ == "__main__":
    sys.exit(main())
