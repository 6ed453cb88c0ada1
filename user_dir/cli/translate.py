"""Translate text, one line each: raw text in, raw text out, in order (docs/translating.md)."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from user_dir.cli.command import run_command
from user_dir.errors import CorpusError, UserError
from user_dir.text.given_pieces import GivenPieces
from user_dir.text.lines import clean_line
from user_dir.text.segmentation import Segmentation, segmentation_of_data
from user_dir.text.subwords import read_model
from user_dir.text.whole_output import whole_file
from user_dir.translation.decoding import Batch, Decoding, Translation
from user_dir.translation.document import Document
from user_dir.translation.input_lines import read_input
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
    batch_limits,
)
from user_dir.translation.progress import Progress
from user_dir.translation.workers import translate_batches

COMMAND = "scomoe-translate"

# All at once, the ids of all pieces would be in memory.
_ENCODED_AT_ONCE = 10_000


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
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
    add_search_options(parser)
    add_batching_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _translate(args))


def _translate(args: argparse.Namespace) -> None:
    # Here, not at the top: --help and mistakes in the options need no torch.
    from user_dir.translation.resolve import resolve

    decoding = resolve(args)
    subwords = None if args.pre_tokenized else _load_segmentation(args, decoding)
    output = _file(args.output)
    if output is None and sys.stdout is None:
        raise UserError("standard output is closed; name a file with --output")
    lines = read_input(_file(args.input))
    if output is None:
        translated = _translate_lines(lines, args, decoding, subwords)
        _write(translated, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with whole_file(output, flag="--output") as file:
        _write(_translate_lines(lines, args, decoding, subwords), file)


def _write(lines: list[str], file: BinaryIO) -> None:
    file.writelines(f"{line}\n".encode() for line in lines)


def _file(name: str | None) -> Path | None:
    return None if name in (None, "-") else Path(name)


def _load_segmentation(args: argparse.Namespace, decoding: Decoding) -> Segmentation:
    try:
        if args.sentencepiece_model:
            return read_model(args.sentencepiece_model, flag="--sentencepiece-model")
        found = segmentation_of_data(Path(decoding.data))
    except CorpusError as error:
        raise UserError(
            f"{error}; or name the model that the training text was cut with "
            "(--sentencepiece-model), or use --pre-tokenized for input in pieces"
        ) from None
    if isinstance(found, GivenPieces):
        print(
            f"{COMMAND}: the training text came in pieces ({found.marker}): the input must be in "
            "pieces too, and the output is joined",
            file=sys.stderr,
        )
    return found


def _translate_lines(
    lines: list[str], args: argparse.Namespace, decoding: Decoding, subwords: Segmentation | None
) -> list[str]:
    """The same list, in which every line has become its translation."""
    if subwords:
        for start in range(0, len(lines), _ENCODED_AT_ONCE):
            part = slice(start, start + _ENCODED_AT_ONCE)
            lines[part] = subwords.encode(lines[part])
    document = Document(lines)
    progress = Progress(COMMAND, document.num_waiting, is_on=args.progress)
    cut = _CutLines()
    sent: dict[int, list[int]] = {}

    def batches() -> Iterator[Batch]:
        for number, (indices, batch) in enumerate(document.batches(batch_limits(args))):
            sent[number] = indices
            yield batch

    for number, translations in translate_batches(decoding, batches(), processes=args.processes):
        indices = sent.pop(number)
        cut.add(indices, translations)
        pieces = [one.pieces for one in translations]
        texts = [clean_line(subwords.decode(one) if subwords else one) for one in pieces]
        document.put(indices, texts)
        progress.add(translations)
    progress.finish()
    cut.warn()
    return document.translated()


@dataclass
class _CutLines:
    """The lines of which only the beginning was translated."""

    count: int = 0
    first: int = sys.maxsize

    def add(self, indices: Sequence[int], translations: Sequence[Translation]) -> None:
        """Count those of a batch."""
        for index, translation in zip(indices, translations, strict=True):
            if translation.was_truncated:
                self.count += 1
                self.first = min(self.first, index)

    def warn(self) -> None:
        """Tell the user of them, if there are any."""
        if self.count:
            print(
                f"{COMMAND}: warning: {self.count} of the lines were longer than the model's "
                "longest input and only their beginning was translated; the first of them is line "
                f"{self.first + 1}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
