"""Corpora that are prepared in a minute: the stages of the large ones, in one go."""

import shutil
from pathlib import Path

from user_dir.cli.preparing.large_corpus import make_corpus
from user_dir.cli.preparing.large_options import LargeOptions
from user_dir.cli.preparing.large_plan import Folder, PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.text.corpus import SPLITS, Corpus
from user_dir.text.large.encoding import Limits
from user_dir.text.large.resumable import StageLog
from user_dir.text.lines import write_lines
from user_dir.text.whole_output import new_folder

# More than any of these corpora has: pieces are learned from all of its text.
_ALL_LINES = 1 << 40


def write_prepared_folder(corpus: Corpus, out: Path, *, vocab_size: int, overwrite: bool) -> None:
    """Write raw text, subword model, binarised data and language lists (docs/corpora.md).

    The folder appears when it is complete; one that `overwrite` lets it replace stays until then.
    """
    with new_folder(out, overwrite=overwrite) as partial:
        folder = Folder(partial)
        plan = Plan(
            folder=folder,
            directions=corpus.directions,
            limits={split: Limits() for split in SPLITS},
            given=LargeOptions(
                directions=None,
                vocab_size=vocab_size,
                input_sentence_size=_ALL_LINES,
                character_coverage=1.0,
                max_pieces=_ALL_LINES,
                workers=1,
                keep_work=False,
            ),
            options={},
            inputs=[],
        )
        log = StageLog(partial, overwrite=False, tell=step)
        with log.locked():
            make_corpus(log, plan, _stored(corpus, folder))
        shutil.rmtree(folder.work)
        written = sorted(path.name for path in partial.iterdir())
    step(f"wrote {out}: {', '.join(written)}")


def _stored(corpus: Corpus, folder: Folder) -> list[PairText]:
    """The corpus's text in the files that the stages read."""
    texts = []
    for pair in corpus.pairs:
        files = {split: folder.text(split, pair) for split in SPLITS}
        for split in SPLITS:
            files[split].source.parent.mkdir(parents=True, exist_ok=True)
            for path, lines in zip(files[split].files, corpus.texts[split, pair], strict=True):
                write_lines(path, lines)
        num_train = len(corpus.texts["train", pair][0])
        texts.append(PairText(pair, {split: [files[split]] for split in SPLITS}, [num_train]))
    return texts
