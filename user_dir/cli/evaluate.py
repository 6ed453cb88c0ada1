"""Translate and score the test sets of a prepared corpus, or any other, with one model.

Writes into --output a translation for each direction (test.en-de.de), the scores (scores.md,
scores.tsv, scores.json) and every line beside its reference (segments.tsv). Started again, it goes
on where it was stopped.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.scoring.evaluation_folder import GIVEN_SET, open_folder
from user_dir.text.scoring.given_sets import given_set, read_given_set
from user_dir.text.scoring.score_files import SCORE_FILES, write_scores
from user_dir.text.scoring.score_tables import (
    Group,
    Row,
    direction_row,
    language_groups,
    mean_rows,
    num_references,
    resource_groups,
)
from user_dir.text.scoring.scores import signatures
from user_dir.text.scoring.segments import SEGMENTS, write_segments
from user_dir.text.scoring.test_sets import (
    Translated,
    count_train_pairs,
    data_folder,
    read_documents,
    read_source_pieces,
    read_test_set,
    read_translated,
    translation_name,
)
from user_dir.text.whole_output import write_whole
from user_dir.translation.decoding import Decoding
from user_dir.translation.directions import Directions
from user_dir.translation.document import Document
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
    shows_progress,
)
from user_dir.translation.progress import Progress
from user_dir.translation.setup import Setup
from user_dir.translation.translator import Translator

COMMAND = "scomoe-evaluate"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    add = parser.add_argument
    evaluated = parser.add_mutually_exclusive_group(required=True)
    evaluated.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="a prepared folder, or one of fairseq-preprocess",
    )
    evaluated.add_argument(
        "--test-set",
        type=given_set,
        metavar="NAME=SOURCE,REFERENCE",
        help="files of one direction, further references after more commas; or NAME=FOLDER with "
        "FLORES-200 or NTREX-128 as published",
    )
    parser.set_defaults(sentencepiece_model=None, pre_tokenized=False)
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    add(
        "--subset",
        choices=("test", "valid"),
        default="test",
        help="which part of the corpus (default: %(default)s)",
    )
    add(
        "--directions",
        metavar="LIST",
        help="such as en-de,de-en (default: all that the checkpoint was trained on)",
    )
    add(
        "--pivot",
        default="en",
        metavar="LANG",
        help="means are over directions from and into this language (default: %(default)s)",
    )
    add(
        "--spbleu",
        action="store_true",
        help="BLEU by the pieces of FLORES-200 as well, comparable between languages",
    )
    add(
        "--overwrite",
        action="store_true",
        help="translate anew what --output holds of another checkpoint or other options",
    )
    add_search_options(parser)
    add_batching_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _evaluate(args), debug=args.debug)


def _evaluate(args: argparse.Namespace) -> None:
    # Here, not at the top: --help and mistakes in the options need no torch.
    from user_dir.translation.loading import load_setup

    if args.corpus is not None:
        args.data = args.data or str(data_folder(args.corpus))
    setup = load_setup(args, corpus=args.corpus)
    directions = _directions(args, setup.directions)
    if args.test_set is None:
        _check_corpus(args, directions)
        open_folder(args.output, _settings(args, setup.decoding), overwrite=args.overwrite)
    else:
        directions = _open_with_test_set(args, directions, setup)
    unfinished = [one for one in directions if _read(args, one) is None]
    if len(unfinished) < len(directions):
        finished = len(directions) - len(unfinished)
        print(f"{finished} of {len(directions)} directions are done already")
    _translate(unfinished, args, setup)
    _write_results([_translated(args, one) for one in directions], args)


def _check_corpus(args: argparse.Namespace, directions: Sequence[Pair]) -> None:
    # One at a time: there may be a thousand.
    unknown = sum(read_test_set(args.corpus, args.subset, one).num_unknown for one in directions)
    if unknown:
        print(
            f"the references come from binarised data, whose dictionary lacks {unknown} of their "
            "pieces: these count as mistakes"
        )


def _open_with_test_set(
    args: argparse.Namespace, directions: Sequence[Pair], setup: Setup
) -> list[Pair]:
    """Open the folder, and keep the test set in it as the corpus; the directions that it has."""
    name = args.test_set.name
    found = read_given_set(
        args.test_set, directions, subset=args.subset, all_of_them=args.directions is not None
    )
    of_set = [one.direction for one in found.test_sets]
    if left_out := [str(one) for one in directions if one not in of_set]:
        print(f"left out, for {name} has not both languages: {', '.join(left_out)}")
    args.corpus, args.subset = args.output / GIVEN_SET, name
    settings = _settings(args, setup.decoding)
    settings |= {"corpus": GIVEN_SET, "test_set": found.digest()}
    open_folder(args.output, settings, overwrite=args.overwrite)
    found.write(name, args.corpus)
    return of_set


def _read(args: argparse.Namespace, direction: Pair) -> Translated | None:
    test_set = read_test_set(args.corpus, args.subset, direction)
    return read_translated(args.output, args.subset, test_set)


def _translated(args: argparse.Namespace, direction: Pair) -> Translated:
    translated = _read(args, direction)
    if translated is None:
        name = translation_name(args.subset, direction)
        raise UserError(f"--output ({args.output}): {name} is gone; the same command goes on")
    return translated


def _directions(args: argparse.Namespace, known: Directions) -> list[Pair]:
    if args.directions is None:
        return list(known.trained)
    given = parse_directions(args.directions, flag="--directions")
    for one in given:
        known.pick(*one.languages)
    return given


def _settings(args: argparse.Namespace, decoding: Decoding) -> dict[str, Any]:
    """What a translation depends on."""
    checkpoints = [Path(path).resolve() for path in decoding.paths]
    return {
        "checkpoints": [str(path) for path in checkpoints],
        # Training goes on writing checkpoints under the same names.
        "checkpoint_times": [path.stat().st_mtime_ns for path in checkpoints],
        "corpus": str(args.corpus.resolve()),
        "subset": args.subset,
        "model_overrides": args.model_overrides,
        "beam": decoding.beam,
        "lenpen": decoding.lenpen,
        "max_len": [decoding.max_len_a, decoding.max_len_b],
        "dtype": f"torch.{decoding.dtype}",  # as folders from before have it
    }


def _translate(directions: Sequence[Pair], args: argparse.Namespace, setup: Setup) -> None:
    """Translate the test sets one after the other; each is written once it is complete."""
    if not directions:
        return
    num_lines = sum(_num_lines(args, one) for one in directions)
    progress = Progress(COMMAND, num_lines, is_on=shows_progress(args))
    with Translator(setup) as translator:
        documents = _documents(directions, args, setup)
        for document, translations in translator.translate_documents(documents):
            best = [one.hypotheses[0].pieces for one in translations]
            progress.add(lines=len(best), tokens=sum(len(pieces.split()) for pieces in best))
            if not document.num_waiting:
                _write(document, args)
    progress.finish()
    print(
        f"translated {num_lines} lines of {len(directions)} direction(s) in "
        f"{progress.seconds:.1f} s ({progress.tokens / progress.seconds:.0f} tokens/s)"
    )


def _documents(
    directions: Sequence[Pair], args: argparse.Namespace, setup: Setup
) -> Iterator[Document]:
    assert setup.segmentation is not None
    for direction in directions:
        if args.test_set is None:
            pieces = read_source_pieces(args.corpus, args.subset, direction, setup.segmentation)
        else:
            sources = read_test_set(args.corpus, args.subset, direction).sources
            pieces = setup.segmentation.encode(sources)
        document = Document(pieces, direction=direction)
        if not document.num_waiting:
            _write(document, args)
        yield document


def _num_lines(args: argparse.Namespace, direction: Pair) -> int:
    return len(read_test_set(args.corpus, args.subset, direction).sources)


def _write(document: Document, args: argparse.Namespace) -> None:
    assert document.direction is not None
    path = args.output / translation_name(args.subset, document.direction)
    lines = [f"{one.text}\n" for one in document.take_ready()]
    write_whole(path, "".join(lines), flag="--output")


def _write_results(translated: Sequence[Translated], args: argparse.Namespace) -> None:
    rows = [direction_row(one, spbleu=args.spbleu) for one in translated]
    means = mean_rows(rows, [*language_groups(args.pivot), *_resource_groups(rows, args)])
    by_metric = signatures(
        [one.test_set.direction.target for one in translated],
        spbleu=args.spbleu,
        references=num_references(translated),
    )
    write_scores(args.output, rows, means, by_metric)
    documents = read_documents(args.corpus, args.subset)
    write_segments(args.output, translated, documents=documents, name=args.subset)
    print(f"wrote {args.output}: translations, {', '.join([*SCORE_FILES, SEGMENTS])}")


def _resource_groups(rows: Sequence[Row], args: argparse.Namespace) -> list[Group]:
    directions = [Pair(*row.name.split("-")) for row in rows]
    counts = {one: count_train_pairs(args.corpus, one) for one in directions}
    known = {one: count for one, count in counts.items() if count is not None}
    return resource_groups(known) if len(known) == len(counts) else []


if __name__ == "__main__":
    sys.exit(main())
