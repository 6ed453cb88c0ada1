"""What the commands that prepare a corpus share: options and the prepared folder."""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from user_dir.option_values import positive
from user_dir.text.corpus import SPLITS, Corpus, write_language_lists, write_pieces, write_raw
from user_dir.text.leftovers import name_without
from user_dir.text.pairs import Pair
from user_dir.text.subwords import learn_subwords
from user_dir.text.whole_output import new_folder


def add_output_options(
    parser: argparse.ArgumentParser, *, vocab_size: int | None, vocab_size_help: str
) -> None:
    """Add --out, --vocab-size with its default (None: depends on other options), --overwrite."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--vocab-size",
        type=positive,
        default=vocab_size,
        help=f"most pieces of the joint sentencepiece BPE (default: {vocab_size_help})",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a prepared corpus at --out once the new one is complete",
    )


def step(text: str) -> None:
    """Tell the user what was done; flushed, for pipes and job logs."""
    print(text, flush=True)


def write_prepared_folder(corpus: Corpus, out: Path, *, vocab_size: int, overwrite: bool) -> None:
    """Write raw text, subword model, binarised data and language lists (docs/corpora.md)."""
    with new_folder(out, overwrite=overwrite) as folder:
        write_raw(corpus, folder / "raw")
        for split in SPLITS:
            count = sum(len(corpus.texts[split, pair][0]) for pair in corpus.pairs)
            step(f"{split}: {count:,} sentence pairs, for {len(corpus.directions)} direction(s)")
        subwords = learn_subwords(corpus.training_text(), vocab_size=vocab_size)
        subwords.save(folder)
        step(f"sentencepiece BPE on the training text: {len(subwords.pieces)} pieces")
        pieces = folder / "pieces"
        write_pieces(corpus, subwords, pieces)
        for pair in corpus.pairs:
            binarise(pair, pieces, folder / "bin")
        shutil.rmtree(pieces)
        write_language_lists(corpus, folder / "bin")
        step(f"binarised with fairseq: {', '.join(map(str, corpus.pairs))}")
    step(f"wrote {out}: raw, spm.model, spm.vocab, bin")


def binarise(
    pair: Pair,
    pieces: Path,
    destination: Path,
    *,
    splits: Sequence[str] = SPLITS,
    workers: int = 1,
) -> None:
    """Let fairseq's own preprocess write one pair with the dictionary of all languages."""
    # Here, not at the top: --help and mistakes in the options need no fairseq.
    from fairseq import options
    from fairseq_cli import preprocess

    level = preprocess.logger.level
    preprocess.logger.setLevel(logging.WARNING)
    try:
        with name_without(",", pieces) as prefix:  # which fairseq would split there
            arguments = ["--source-lang", pair.source, "--target-lang", pair.target]
            # Not --joined-dictionary: it refuses a target that another pair has already.
            arguments += [f"--{side}dict={prefix}/dict.txt" for side in ("src", "tgt")]
            arguments += [f"--{split}pref={prefix}/{split}.{pair}" for split in splits]
            arguments += [f"--destdir={destination}", "--workers", str(workers)]
            preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        preprocess.logger.setLevel(level)
        _close_log_files(preprocess.logger)
    # It names temporary folders, and nothing else in the folder depends on time or place.
    (destination / "preprocess.log").unlink()


def _close_log_files(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            handler.close()
