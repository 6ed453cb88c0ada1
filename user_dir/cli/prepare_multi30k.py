"""Prepare Multi30k (image captions) for translation between English, German, French and Czech."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.prepared_folder import add_output_options, step
from user_dir.cli.preparing.small_corpus import write_prepared_folder
from user_dir.text.lines import unpack_gzip
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.download import fetch
from user_dir.text.sources.multi30k import PUBLIC_HOME, file_names, read_multi30k
from user_dir.text.whole_output import check_replaceable

COMMAND = "prepare_multi30k"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/corpora.md describes what is written."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add_output_options(parser, vocab_size=6000, vocab_size_help="6000")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--raw", type=Path, help="folder with {train,val,test_2016_flickr}.LANGUAGE.gz"
    )
    origin.add_argument(
        "--download", action="store_true", help="get these files from the corpus's public home"
    )
    parser.add_argument(
        "--download-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "scomoe" / "multi30k",
        help="where downloaded files are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--mirror", default=PUBLIC_HOME, help="another home of the files (default: %(default)s)"
    )
    parser.add_argument(
        "--pair", required=True, help="directions to train, such as en-de or en-de,de-en,en-fr"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug)


def _prepare(args: argparse.Namespace) -> None:
    check_replaceable(args.out, overwrite=args.overwrite)
    directions = parse_directions(args.pair)
    raw = args.raw
    if args.download:
        raw = args.download_dir.expanduser()
        _download(directions, args.mirror.rstrip("/"), raw)
    step(f"reading Multi30k from {raw}")
    corpus = read_multi30k(raw, directions)
    write_prepared_folder(corpus, args.out, vocab_size=args.vocab_size, overwrite=args.overwrite)


def _download(directions: list[Pair], mirror: str, folder: Path) -> None:
    step(f"downloading from {mirror} to {folder}")
    for name in file_names(directions):
        fetched = fetch(f"{mirror}/{name}", folder / name, check=_check_gzip)
        step(f"  {name}: {'downloaded' if fetched else 'there already'}")


def _check_gzip(path: Path) -> None:
    unpack_gzip(path.read_bytes(), path)


if __name__ == "__main__":
    sys.exit(main())
