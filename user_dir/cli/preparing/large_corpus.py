"""What the commands for large corpora share: the folder, its last stages, the options."""

import argparse
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from user_dir.cli.preparing.prepared_folder import binarise, step
from user_dir.errors import CorpusError
from user_dir.option_values import finite_number, positive
from user_dir.text.corpus import SPLITS, Corpus, side_name, write_language_lists
from user_dir.text.large.encoding import Limits, TextPair, encode_files, read_counts, write_counts
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.large.worker_pool import default_workers
from user_dir.text.lines import write_lines
from user_dir.text.pairs import Pair
from user_dir.text.sampling import TextFile, learn_subwords, sample
from user_dir.text.subwords import Subwords


@dataclass(frozen=True)
class Folder:
    """Where everything lies below --out; `work` goes once the corpus is complete."""

    out: Path

    @property
    def work(self) -> Path:
        return self.out / "work"

    @property
    def model(self) -> Path:
        return self.out / "spm.model"

    @property
    def dictionary(self) -> Path:
        return self.work / "pieces" / "dict.txt"

    def text(self, split: str, pair: Pair, part: str = "") -> TextPair:
        """Cleaned text, from which subwords are learned."""
        return _files(self.work / "text" / part, split, pair)

    def raw(self, split: str, pair: Pair) -> TextPair:
        """What is scored against."""
        return _files(self.out / "raw", split, pair)

    def pieces(self, split: str, pair: Pair) -> TextPair:
        """The same lines in pieces."""
        return _files(self.work / "pieces", split, pair)

    def counts(self, pair: Pair) -> Path:
        """How often each piece occurs in the pair's training text."""
        return self.work / "pieces" / f"counts.{pair}.tsv"

    def binary(self, pair: Pair) -> Path:
        """One pair binarised, before all of them come together in bin."""
        return self.work / "binarised" / str(pair)


@dataclass(frozen=True)
class PairText:
    """The cleaned text of a pair: the files of each split, and how many training pairs."""

    pair: Pair
    parts: Mapping[str, Sequence[TextPair]]
    train_lines: Sequence[int]  # of each training part

    @property
    def splits(self) -> list[str]:
        """The splits that the pair has."""
        return [split for split in SPLITS if self.parts.get(split)]


@dataclass(frozen=True)
class Plan:
    """How the cleaned text becomes a corpus."""

    folder: Folder
    directions: list[Pair]
    limits: Mapping[str, Limits]
    args: argparse.Namespace
    options: dict[str, Any]  # that cleaning the text depends on
    inputs: dict[str, Any]  # size and time of what it was read from

    @property
    def text_settings(self) -> dict[str, Any]:
        """What the cleaned text depends on."""
        return self.options | {"directions": self.args.directions, "inputs": self.inputs}

    @property
    def subword_settings(self) -> dict[str, Any]:
        """What the subwords depend on."""
        names = ("vocab_size", "input_sentence_size", "character_coverage")
        return self.text_settings | {name: getattr(self.args, name) for name in names}

    @property
    def settings(self) -> dict[str, Any]:
        """What the binarised corpus depends on."""
        limits = {split: [limit.most, limit.ratio] for split, limit in self.limits.items()}
        return self.subword_settings | {"limits": limits}


def add_staged_options(
    parser: argparse.ArgumentParser,
    *,
    vocab_size: int,
    input_sentence_size: int,
    character_coverage: float,
    max_pieces: int,
) -> None:
    """Add the options that both commands have, with their defaults."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write, work folder included")
    numbers: list[tuple[str, Any, str]] = [
        ("--vocab-size", vocab_size, "most pieces of the joint sentencepiece BPE"),
        ("--input-sentence-size", input_sentence_size, "sentences the pieces are learned from"),
        ("--max-pieces", max_pieces, "longer sentences are not trained on"),
        ("--workers", default_workers(), "processes"),
    ]
    for flag, default, text in numbers:
        add(flag, type=positive, default=default, help=f"{text} (default: %(default)s)")
    add(
        "--character-coverage",
        type=finite_number(least=0.98, most=1),
        default=character_coverage,
        help="share of the characters that pieces cover (default: %(default)s)",
    )
    add("--keep-work", action="store_true", help="keep text and pieces in OUT/work at the end")
    add(
        "--overwrite",
        action="store_true",
        help="redo what other options than before change, instead of refusing",
    )


def file_identity(paths: Iterable[Path]) -> dict[str, Any]:
    """Size and time of change of some files: enough to notice that they are other ones."""
    status = {path.name: path.stat() for path in paths}
    return {name: [one.st_size, one.st_mtime_ns] for name, one in status.items()}


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
    """Subwords, pieces, dictionary, binarised data: from cleaned text to the prepared folder."""
    folder = plan.folder
    # Several pairs go side by side; a single one is divided among the workers.
    outer, inner = (plan.args.workers, 1) if len(texts) > 1 else (1, plan.args.workers)
    model_files = [folder.model, folder.out / "spm.vocab"]
    log.run(Stage("subwords", plan.subword_settings, model_files, partial(_learn, plan, texts)))
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
    if not plan.args.keep_work:
        _remove_work(folder)
    step(f"wrote {folder.out}: raw, spm.model, spm.vocab, bin")


def _last_stage(plan: Plan, texts: Sequence[PairText], kept: Sequence[Facts] = ()) -> Stage:
    """The stage that puts bin in its place; when it is finished, everything is."""
    settings = {name: value for name, value in plan.settings.items() if name != "inputs"}
    out = plan.folder.out
    uses = [out / "raw", plan.folder.model, out / "spm.vocab"]
    return Stage("bin", settings, [out / "bin"], partial(_finish, plan, texts, kept), uses=uses)


def _encoding_stage(plan: Plan, text: PairText, *, workers: int) -> Stage:
    folder = plan.folder
    outputs = [
        path
        for split in SPLITS
        for files in (folder.raw(split, text.pair), folder.pieces(split, text.pair))
        for path in (files.source, files.target)
    ]
    return Stage(
        f"pieces {text.pair}",
        plan.settings,
        [*outputs, folder.counts(text.pair)],
        partial(_encode, plan, text, workers=workers),
    )


def _learn(plan: Plan, texts: Sequence[PairText]) -> Facts:
    by_language: dict[str, list[TextFile]] = {}
    for text in texts:
        for part, lines in zip(text.parts["train"], text.train_lines, strict=True):
            for language, path in zip(text.pair.languages, (part.source, part.target), strict=True):
                by_language.setdefault(language, []).append(TextFile(path, lines))
    subwords = learn_subwords(
        sample(by_language, plan.args.input_sentence_size),
        vocab_size=plan.args.vocab_size,
        character_coverage=plan.args.character_coverage,
    )
    subwords.save(plan.folder.out)
    return {"pieces": len(subwords.pieces)}


def _encode(plan: Plan, text: PairText, *, workers: int) -> Facts:
    read: dict[str, int] = {}
    kept: dict[str, int] = {}
    train_counts: Counter[str] = Counter()
    for split in text.splits:
        read[split], kept[split], counts = encode_files(
            text.parts[split],
            model=plan.folder.model,
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
                f"--max-pieces ({plan.args.max_pieces}); allow longer ones"
            )
    write_counts(plan.folder.counts(text.pair), train_counts)
    return {"pair": str(text.pair), "read": read, "kept": kept}


def _tell_kept(facts: Iterable[Facts]) -> None:
    for split in SPLITS:
        having = [one for one in facts if split in one["kept"]]
        kept, read = (sum(one[key][split] for one in having) for key in ("kept", "read"))
        step(f"{split}: {kept:,} of {read:,} sentence pairs kept, {len(having)} language pair(s)")


def _write_dictionary(plan: Plan, texts: Sequence[PairText]) -> Facts:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(read_counts(plan.folder.counts(text.pair)))
    subwords = Subwords(plan.folder.model.read_bytes())
    write_lines(plan.folder.dictionary, subwords.dictionary_lines(counts))
    return {}


def _binarise(plan: Plan, text: PairText, kept: Mapping[str, int], *, workers: int) -> Facts:
    destination = plan.folder.binary(text.pair)
    binarise(
        text.pair,
        plan.folder.work / "pieces",
        destination,
        splits=text.splits,
        workers=workers,
    )
    for split in text.splits:
        for language in text.pair.languages:
            _check_binary(destination / side_name(split, text.pair, language), kept[split])
    return {}


def _check_binary(stem: Path, lines: int) -> None:
    """See that all lines arrived: a writer that ran out of room does not always say so."""
    index, data = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("idx", "bin"))
    with index.open("rb") as file:
        _, _, code, found = struct.unpack("<9sQBQ", file.read(26))
        sizes = sum(size for (size,) in struct.iter_unpack("<i", file.read(4 * found)))
    width = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}.get(code)
    if found != lines or (width is not None and data.stat().st_size != width * sizes):
        raise CorpusError(
            f"{stem}: fairseq's preprocessing wrote {found} of {lines} lines, or not all of their "
            "tokens; is the disk full? The same command tries again"
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
    corpus = Corpus(directions=plan.directions, texts={})
    write_language_lists(corpus, partial_bin)
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


def _files(folder: Path, split: str, pair: Pair) -> TextPair:
    source, target = (folder / side_name(split, pair, language) for language in pair.languages)
    return TextPair(source, target)
