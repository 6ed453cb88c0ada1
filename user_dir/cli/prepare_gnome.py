"""Prepare GNOME's user documentation as a test set for models trained on another corpus."""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.option_values import positive, whole_number
from user_dir.text.corpus import side_name, write_language_lists
from user_dir.text.lines import write_lines
from user_dir.text.pairs import Pair, parse_directions, stored_pairs
from user_dir.text.sources.apt import unpack_package
from user_dir.text.sources.gnome import Texts, align_texts, read_gnome
from user_dir.text.whole_output import check_replaceable, new_folder

COMMAND = "prepare_gnome"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/debian.md describes what is written."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add(
        "--like",
        type=Path,
        required=True,
        help="prepared folder that the models were trained on, for its subwords and directions",
    )
    add(
        "--raw",
        type=Path,
        help="folder with LANGUAGE/gnome-help/*.page, such as /usr/share/help (default: apt gets "
        "the package gnome-user-docs)",
    )
    add(
        "--download-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "scomoe" / "gnome",
        help="where the package is kept (default: %(default)s)",
    )
    add("--directions", help="such as en-de,de-en (default: those of --like that there are)")
    add(
        "--max-pairs",
        type=positive,
        default=500,
        help="most sentence pairs of two languages (default: %(default)s)",
    )
    add("--seed", type=whole_number(), default=1, help="of the draw (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace a prepared corpus at --out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug)


def _prepare(args: argparse.Namespace) -> None:
    check_replaceable(args.out, overwrite=args.overwrite)
    trained = _trained_directions(args.like)
    folder = args.raw
    if folder is None:
        step(f"getting gnome-user-docs through apt to {args.download_dir}")
        unpacked = unpack_package(
            args.download_dir.expanduser(),
            "gnome-user-docs",
            otherwise="name a folder such as /usr/share/help with --raw",
        )
        folder = unpacked / "usr" / "share" / "help"
    step(f"reading GNOME's documentation from {folder}")
    texts = read_gnome(folder)
    directions = _directions(args, trained, texts)
    with new_folder(args.out, overwrite=args.overwrite) as out:
        (out / "raw").mkdir()
        for pair in stored_pairs(directions):
            source, target = (texts[language] for language in pair.languages)
            sides = align_texts(source, target, most=args.max_pairs, seed=args.seed)
            _refuse_empty(sides, pair)
            for language, lines in zip(pair.languages, sides, strict=True):
                write_lines(out / "raw" / side_name("test", pair, language), lines)
            step(f"{pair}: {len(sides[0])} sentence pairs")
        _copy_subwords(args.like, out)
        write_language_lists(directions, out / "bin")
    step(f"wrote {args.out}: a test set for models trained on {args.like}")


def _trained_directions(corpus: Path) -> list[Pair]:
    try:
        return parse_directions((corpus / "bin" / "pairs.txt").read_text("utf-8").strip())
    except OSError as error:
        raise CorpusError(
            f"--like ({corpus}): no prepared corpus ({error.strerror}: bin/pairs.txt)"
        ) from None


def _directions(
    args: argparse.Namespace, trained: list[Pair], texts: Mapping[str, Texts]
) -> list[Pair]:
    """The directions asked for, or those that both the corpus and the documentation have."""
    if args.directions is None:
        wanted = [one for one in trained if all(name in texts for name in one.languages)]
        if not wanted:
            raise CorpusError(
                f"--like ({args.like}): GNOME's documentation has no direction of this corpus; "
                f"its languages are {', '.join(texts)}"
            )
        return wanted
    wanted = parse_directions(args.directions, flag="--directions")
    for direction in wanted:
        for name in direction.languages:
            if name not in texts:
                raise CorpusError(
                    f'--directions ({args.directions}): there is no documentation in "{name}"; '
                    f"its languages are {', '.join(texts)}"
                )
        if direction not in trained:
            raise CorpusError(
                f"--directions ({args.directions}): {direction} is none of --like ({args.like})"
            )
    return wanted


def _refuse_empty(sides: tuple[list[str], list[str]], pair: Pair) -> None:
    if not sides[0]:
        raise CorpusError(f"--directions: nothing is translated of {pair}; leave it out")


def _copy_subwords(corpus: Path, out: Path) -> None:
    """The subwords and dictionaries that the models know."""
    (out / "bin").mkdir()
    dictionaries = sorted((corpus / "bin").glob("dict.*.txt"))
    for path in [corpus / "spm.model", corpus / "spm.vocab", *dictionaries]:
        shutil.copyfile(path, out / path.relative_to(corpus))


if __name__ == "__main__":
    sys.exit(main())
