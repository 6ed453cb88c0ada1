"""The last stages of every large corpus: from cleaned text to the prepared folder."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from user_dir.cli.preparing.large_plan import Folder, PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.cli.preparing.segmentation_stage import write_segmentation
from user_dir.errors import CorpusError
from user_dir.text.binarised_files import read_index
from user_dir.text.corpus import SPLITS, side_name, write_language_lists
from user_dir.text.large.binarising import binarise_text
from user_dir.text.large.encoding import encode_files, read_counts, write_counts
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.lines import write_lines
from user_dir.text.segmentation import load_segmentation


def file_identity(paths: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of change of some files: enough to notice that they are other ones."""
    status = [(path.name, path.stat()) for path in paths]
    return [[name, one.st_size, one.st_mtime_ns] for name, one in status]


def is_finished(log: StageLog, plan: Plan) -> bool:
    """Whether an earlier run has done everything, and nothing was damaged since.

    Without inputs in the plan, because they are gone, those of the earlier run count.
    """
    facts = log.facts(_last_stage(plan, []))
    if facts is None:
        return False
    if plan.inputs and facts["inputs"] != plan.inputs:
        log.refuse("other input files")
        return False
    step(f"{log.out} is complete; nothing to do")
    return True


def run_last_stages(log: StageLog, plan: Plan, texts: Sequence[PairText]) -> None:
    """From cleaned text to the prepared folder; what was only needed meanwhile goes."""
    make_corpus(log, plan, texts)
    if not plan.given.keep_work:
        _remove_work(plan.folder)
    written = [path.name for path in plan.folder.segmentation_files if path.exists()]
    step(f"wrote {plan.folder.out}: raw, {', '.join(written)}, bin")


def make_corpus(log: StageLog, plan: Plan, texts: Sequence[PairText]) -> None:
    """Subwords, pieces, dictionary, binarised data."""
    folder = plan.folder
    # Several pairs go side by side; a single one is divided among the workers.
    outer, inner = (plan.given.workers, 1) if len(texts) > 1 else (1, plan.given.workers)
    cutting = partial(write_segmentation, plan, texts)
    log.run(Stage("subwords", plan.subword_settings, folder.segmentation_files, cutting))
    encoding = [_encoding_stage(plan, text, workers=inner) for text in texts]
    kept = log.run_all("pieces", encoding, workers=outer)
    _tell_kept(kept)
    dictionary = partial(_write_dictionary, plan, texts)
    log.run(Stage("dictionary", plan.settings, [folder.dictionary], dictionary))
    binarising = [
        Stage(
            f"binarised {text.pair}",
            plan.settings,
            [folder.binary(text.pair)],
            partial(_binarise, plan, text, facts["kept"], workers=inner),
        )
        for text, facts in zip(texts, kept, strict=True)
    ]
    log.run_all("binarised", binarising, workers=outer)
    last = _last_stage(plan, texts, kept)
    log.forget(last)  # it takes no time, and its settings do not tell of other input
    log.run(last)


def _last_stage(plan: Plan, texts: Sequence[PairText], kept: Sequence[Facts] = ()) -> Stage:
    """The stage that puts bin in its place; when it is finished, everything is."""
    settings = {name: value for name, value in plan.settings.items() if name != "inputs"}
    out = plan.folder.out
    uses = [out / "raw", *plan.folder.segmentation_files]
    return Stage("bin", settings, [out / "bin"], partial(_finish, plan, texts, kept), uses=uses)


def _encoding_stage(plan: Plan, text: PairText, *, workers: int) -> Stage:
    folder = plan.folder
    outputs = [
        path
        for split in SPLITS
        for files in (folder.raw(split, text.pair), folder.pieces(split, text.pair))
        for path in files.files
    ]
    return Stage(
        f"pieces {text.pair}",
        plan.settings,
        [*outputs, folder.counts(text.pair)],
        partial(_encode, plan, text, workers=workers),
    )


def _encode(plan: Plan, text: PairText, *, workers: int) -> Facts:
    read: dict[str, int] = {}
    kept: dict[str, int] = {}
    train_counts: Counter[str] = Counter()
    for split in text.splits:
        read[split], kept[split], counts = encode_files(
            text.parts[split],
            corpus=plan.folder.out,
            limits=plan.limits[split],
            raw=plan.folder.raw(split, text.pair),
            pieces=plan.folder.pieces(split, text.pair),
            workers=workers,
        )
        if split == "train":
            train_counts = counts
        if not kept[split]:
            raise CorpusError(
                f"{text.pair}, {split}: of {read[split]} sentence pairs none is left within "
                f"--max-pieces ({plan.given.max_pieces}); allow longer ones"
            )
    write_counts(plan.folder.counts(text.pair), train_counts)
    return {"pair": str(text.pair), "read": read, "kept": kept}


def _tell_kept(facts: Iterable[Facts]) -> None:
    for split in SPLITS:
        having = [one for one in facts if split in one["kept"]]
        if not having:
            continue
        kept, read = (sum(one[key][split] for one in having) for key in ("kept", "read"))
        step(f"{split}: {kept:,} of {read:,} sentence pairs kept, {len(having)} language pair(s)")


def _write_dictionary(plan: Plan, texts: Sequence[PairText]) -> Facts:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(read_counts(plan.folder.counts(text.pair)))
    segmentation = load_segmentation(plan.folder.out)
    write_lines(plan.folder.dictionary, segmentation.dictionary_lines(counts))
    return {}


def _binarise(plan: Plan, text: PairText, kept: Mapping[str, int], *, workers: int) -> Facts:
    folder = plan.folder
    destination = folder.binary(text.pair)
    destination.mkdir()
    for language in text.pair.languages:
        shutil.copyfile(folder.dictionary, destination / f"dict.{language}.txt")
    for split in text.splits:
        for language, pieces in zip(
            text.pair.languages, folder.pieces(split, text.pair).files, strict=True
        ):
            prefix = destination / side_name(split, text.pair, language)
            binarise_text(pieces, folder.dictionary, prefix, workers=workers)
            _check_binary(prefix, kept[split])
    return {}


def _check_binary(stem: Path, lines: int) -> None:
    """See that all lines arrived: a disk does not always say that it is full."""
    index = read_index(stem.with_name(f"{stem.name}.idx"))
    size = stem.with_name(f"{stem.name}.bin").stat().st_size
    found = 0 if index is None else len(index)
    if index is None or found != lines or size != int(index.sizes.sum()) * index.dtype.itemsize:
        raise CorpusError(
            f"{stem}: {found} of {lines} lines were written, or not all of their tokens; is the "
            "disk full? The same command tries again"
        )


def _finish(plan: Plan, texts: Sequence[PairText], kept: Sequence[Facts]) -> Facts:
    """Gather every pair's files; the folder appears at once, when all of them are there."""
    folder = plan.folder
    partial_bin = folder.work / "bin"
    shutil.rmtree(partial_bin, ignore_errors=True)
    partial_bin.mkdir()
    for text in texts:
        for path in sorted(folder.binary(text.pair).iterdir()):
            _link(path, partial_bin / path.name)
    write_language_lists(plan.directions, partial_bin)
    # The name under which users of the paper's release look for the languages.
    shutil.copyfile(partial_bin / "langs.txt", partial_bin / "lang_dict.txt")
    for split in ("valid", "test"):
        stored = [text.pair for text in texts if split in text.splits]
        having = [one for one in plan.directions if one in stored or one.reversed() in stored]
        write_lines(partial_bin / f"{split}_pairs.txt", [",".join(map(str, having))])
    rows = [[one["pair"], *(str(one["kept"].get(split, 0)) for split in SPLITS)] for one in kept]
    write_lines(partial_bin / "sizes.tsv", ["\t".join(row) for row in [["pair", *SPLITS], *rows]])
    _remove_other_pairs(folder, texts)
    partial_bin.rename(folder.out / "bin")
    return {"inputs": plan.inputs}


def _remove_other_pairs(folder: Folder, texts: Sequence[PairText]) -> None:
    """Remove the raw text of pairs that an earlier run with more directions has left."""
    wanted = {
        side_name(split, text.pair, language)
        for text in texts
        for split in text.splits
        for language in text.pair.languages
    }
    for path in (folder.out / "raw").iterdir():
        if path.name not in wanted:
            path.unlink()


def _link(path: Path, target: Path) -> None:
    if target.exists():  # the dictionary of a language is the same in all its pairs
        return
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copyfile(path, target)


def _remove_work(folder: Folder) -> None:
    for path in folder.work.iterdir():
        if path.is_dir() and path.name != "stages":
            shutil.rmtree(path)
        elif path.name not in ("stages", "lock", "SHA256SUMS"):
            path.unlink()
