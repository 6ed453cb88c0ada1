"""Translate text, one line each: raw text in, raw text out, in order (docs/translating.md)."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.option_values import positive
from user_dir.text.given_pieces import GivenPieces
from user_dir.text.whole_output import whole_file
from user_dir.translation.decoding import Translation
from user_dir.translation.input_lines import count_lines, is_terminal, read_input
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
    shows_progress,
)
from user_dir.translation.progress import Progress
from user_dir.translation.translator import DEFAULT_BUFFER, Translator

COMMAND = "scomoe-translate"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = CommandParser(prog=COMMAND, description=__doc__)
    add_model_options(parser)
    add = parser.add_argument
    add("--input", metavar="FILE", help="text to translate (default: standard input)")
    add("--output", metavar="FILE", help="where to write (default: standard output)")
    subwords = parser.add_mutually_exclusive_group()
    subwords.add_argument(
        "--sentencepiece-model",
        type=Path,
        metavar="FILE",
        help="cuts input into pieces and joins output (default: what the data folder was cut with)",
    )
    subwords.add_argument(
        "--pre-tokenized",
        action="store_true",
        help="input is in pieces with spaces between, and output is left so",
    )
    add(
        "--nbest",
        type=positive,
        metavar="N",
        help="write the N best translations of each line, one a line, best first, each after the "
        "number of its input line and a tab",
    )
    add(
        "--scores",
        action="store_true",
        help="write the score and a tab before each translation: the mean log-probability of its "
        "tokens, to base 2",
    )
    add(
        "--buffer",
        type=positive,
        metavar="N",
        help="read so many lines before the first of them is translated; 1 answers each line at "
        f"once (default: {DEFAULT_BUFFER}, 1 when lines are typed)",
    )
    add_search_options(parser)
    add_batching_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _translate(args), debug=args.debug)


def _translate(args: argparse.Namespace) -> None:
    source, output = _file(args.input), _file(args.output)
    with Translator.from_options(args) as translator, _opened(output) as file:
        _tell_of_given_pieces(translator)
        translations = translator.stream(
            read_input(source),
            source=args.source_lang,
            target=args.target_lang,
            nbest=args.nbest or 1,
            buffer=args.buffer or (1 if is_terminal(source) else DEFAULT_BUFFER),
        )
        _write(translations, file, args)


def _write(translations: Iterator[Translation], file: BinaryIO, args: argparse.Namespace) -> None:
    """Write each translation as it comes."""
    is_on = shows_progress(args, output_on_terminal=file.isatty())
    total = None if is_on is False else count_lines(_file(args.input))
    progress = Progress(COMMAND, total, is_on=is_on)
    cut = _CutLines()
    is_stream = args.output in (None, "-")
    for number, translation in enumerate(translations, start=1):
        file.write(_format(number, translation, args).encode())
        if is_stream:
            file.flush()
        cut.add(number, translation)
        progress.add(lines=1, tokens=len(translation.hypotheses[0].pieces.split()))
    progress.finish()
    cut.warn()


def _format(number: int, translation: Translation, args: argparse.Namespace) -> str:
    lines = []
    for one in translation.hypotheses:
        fields = [str(number)] if args.nbest else []
        fields += [f"{one.score:.4f}"] if args.scores else []
        lines.append("\t".join([*fields, one.text]) + "\n")
    return "".join(lines)


def _file(name: str | None) -> Path | None:
    return None if name in (None, "-") else Path(name)


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """A file that appears when it is complete, or standard output, where lines leave at once."""
    if output is not None:
        with whole_file(output, flag="--output") as file:
            yield file
    elif sys.stdout is None:
        raise UserError("standard output is closed; name a file with --output")
    else:
        yield sys.stdout.buffer


def _tell_of_given_pieces(translator: Translator) -> None:
    if isinstance(translator.setup.segmentation, GivenPieces):
        print(
            f"{COMMAND}: the training text came in pieces "
            f"({translator.setup.segmentation.marker}): the input must be in pieces too, and the "
            "output is joined",
            file=sys.stderr,
        )


@dataclass
class _CutLines:
    """The lines of which only the beginning was translated."""

    count: int = 0
    first: int = 0

    def add(self, number: int, translation: Translation) -> None:
        """Count a line, by its number."""
        if translation.was_truncated:
            self.count += 1
            self.first = self.first or number

    def warn(self) -> None:
        """Tell the user of them, if there are any."""
        if self.count:
            print(
                f"{COMMAND}: warning: {self.count} of the lines were longer than the model's "
                "longest input and only their beginning was translated; the first of them is line "
                f"{self.first}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
