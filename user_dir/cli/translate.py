"""Translate text, one line each: raw text in, raw text out, in order (docs/translating.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from user_dir.cli.command import run_command
from user_dir.errors import UserError
from user_dir.text.lines import clean_line
from user_dir.text.subwords import Subwords
from user_dir.text.whole_output import whole_file
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
    resolve,
)
from user_dir.translation.progress import Progress
from user_dir.translation.sentences import in_order, make_batches, read_sentences
from user_dir.translation.translator import Batch, Decoding, Translation
from user_dir.translation.workers import translate_batches

COMMAND = "scomoe-translate"


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
        help="cuts input into pieces and joins output (default: spm.model beside the data folder)",
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
    decoding = resolve(args)
    subwords = None if args.pre_tokenized else _load_subwords(args, decoding)
    lines = read_sentences(_file(args.input))
    if _file(args.output) is None:
        output = _translate_lines(lines, args, decoding, subwords)
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
        return
    with whole_file(args.output, flag="--output") as file:
        file.write(_translate_lines(lines, args, decoding, subwords))


def _file(name: str | None) -> Path | None:
    return None if name in (None, "-") else Path(name)


def _load_subwords(args: argparse.Namespace, decoding: Decoding) -> Subwords:
    beside = Path(decoding.data).resolve().parent / "spm.model"
    path = args.sentencepiece_model or beside
    try:
        return Subwords(path.read_bytes())
    except OSError as error:
        hint = "" if args.sentencepiece_model else ", which is where prepared folders have it"
        raise UserError(
            f"--sentencepiece-model: {path}{hint}, cannot be read ({error.strerror}); name the "
            "model that the training text was cut with, or use --pre-tokenized for input in pieces"
        ) from None
    except RuntimeError:
        raise UserError(f"--sentencepiece-model ({path}): not a sentencepiece model") from None


def _translate_lines(
    lines: list[str], args: argparse.Namespace, decoding: Decoding, subwords: Subwords | None
) -> bytes:
    """The output file's content: as many lines as there are in the input."""
    sources = subwords.encode(lines) if subwords else lines
    batches = make_batches(
        sources,
        max_tokens=args.max_tokens,
        batch_size=args.batch_size,
        # The limit counts the padded source, so a translation would depend on its batch.
        equal_lengths=args.max_len_a > 0,
        processes=args.processes,
    )
    progress = Progress(COMMAND, sum(map(len, batches)), is_on=args.progress)
    translations: dict[int, Translation] = {}
    batched = [Batch([sources[index] for index in batch]) for batch in batches]
    for number, results in translate_batches(decoding, batched, processes=args.processes):
        translations.update(zip(batches[number], results, strict=True))
        progress.add(results)
    progress.finish()
    _warn_of_truncation(translations, decoding)
    texts = {
        index: clean_line(subwords.decode(translation.pieces) if subwords else translation.pieces)
        for index, translation in translations.items()
    }
    output = "".join(f"{text}\n" for text in in_order(texts, sources)).encode()
    num_written = output.count(b"\n")
    if num_written != len(lines):
        raise UserError(
            f"{len(lines)} lines came in, but {num_written} would go out; nothing was written. "
            "Please report this"
        )
    return output


def _warn_of_truncation(translations: dict[int, Translation], decoding: Decoding) -> None:
    cut = [index + 1 for index in sorted(translations) if translations[index].was_truncated]
    if cut:
        print(
            f"{COMMAND}: warning: {len(cut)} of the lines were longer than the model's longest "
            f"input and only their beginning was translated; the first of them is line {cut[0]}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
