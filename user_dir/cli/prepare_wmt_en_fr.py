"""Prepare WMT'14 English-French from the corpora of fairseq's recipe.

Works in stages inside --out; started again, it goes on after the last finished stage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.preparing.large_corpus import file_identity, is_finished, run_last_stages
from user_dir.cli.preparing.large_options import MEMORY_CURE, LargeOptions, add_large_options
from user_dir.cli.preparing.large_plan import Folder, PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.errors import CorpusError
from user_dir.option_values import finite_number, whole_number
from user_dir.text.large.encoding import Limits
from user_dir.text.large.resumable import Facts, Stage, StageLog
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.archives import check_archive, sha256_of
from user_dir.text.sources.download import fetch
from user_dir.text.sources.wmt_en_fr import (
    CORPORA,
    LANGUAGES,
    TEST,
    Source,
    chosen_corpora,
    input_files,
    locate,
    write_test_text,
    write_training_text,
)

COMMAND = "prepare_wmt-en-fr"

_PAIR = Pair(*LANGUAGES)
_CHECKSUMS = "SHA256SUMS"
_ATTEMPTS = 20  # gigabytes from a far server; each goes on where the last one broke off


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/corpora.md describes what is written."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_large_options(
        parser,
        vocab_size=40_000,
        input_sentence_size=10_000_000,
        character_coverage=0.9999,
        max_pieces=250,
    )
    add = parser.add_argument
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--raw", type=Path, help="folder with the archives, or where they unpacked")
    origin.add_argument("--download", action="store_true", help="get the archives from statmt.org")
    add("--mirror", metavar="URL", help="get them from here instead (URL/ARCHIVE)")
    add(
        "--download-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "scomoe" / "wmt-en-fr",
        help="where downloaded archives are kept (default: %(default)s)",
    )
    add("--sha256", type=Path, metavar="FILE", help="checksums of the archives, as of sha256sum")
    add(
        "--corpora",
        default=",".join(one.name for one in CORPORA),
        help="which training corpora (default: %(default)s)",
    )
    add("--directions", default=str(_PAIR), help="en-fr, fr-en or both (default: %(default)s)")
    add(
        "--ratio",
        type=finite_number(least=1),
        default=1.5,
        help="longest side to shortest (default: %(default)s)",
    )
    add(
        "--valid-every",
        type=whole_number(least=2),
        default=1333,
        help="every so many lines one is for validation (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _prepare(args), debug=args.debug, memory_cure=MEMORY_CURE)


def _prepare(args: argparse.Namespace) -> None:
    _check(args)
    corpora = chosen_corpora(args.corpora)
    archives = args.download_dir.expanduser() if args.download else args.raw
    log = StageLog(args.out, overwrite=args.overwrite, tell=step)
    with log.locked():
        if is_finished(log, _plan(args, corpora, _inputs(archives, corpora, or_nothing=True))):
            return
        if args.download:
            _download([*corpora, TEST], args.mirror, archives)
        plan = _plan(args, corpora, _inputs(archives, corpora))
        _verify(log, plan, archives, corpora, args)
        text = _read(log, plan, archives, corpora, valid_every=args.valid_every)
        run_last_stages(log, plan, [text])


def _check(args: argparse.Namespace) -> None:
    for one in parse_directions(args.directions, flag="--directions"):
        if sorted(one.languages) != sorted(LANGUAGES):
            raise CorpusError(f"--directions ({args.directions}): there are en-fr and fr-en only")
    if args.mirror and not args.download:
        raise CorpusError("--mirror goes with --download")


def _plan(args: argparse.Namespace, corpora: Sequence[Source], inputs: list[list[Any]]) -> Plan:
    cleaned = Limits(most=args.max_pieces, ratio=args.ratio)
    return Plan(
        folder=Folder(args.out),
        directions=parse_directions(args.directions, flag="--directions"),
        # The recipe cleans the validation set too, and leaves the test set whole.
        limits={"train": cleaned, "valid": cleaned, "test": Limits()},
        given=LargeOptions.of(args),
        options={"corpora": [one.name for one in corpora], "valid_every": args.valid_every},
        inputs=inputs,
    )


def _inputs(
    archives: Path, corpora: Sequence[Source], *, or_nothing: bool = False
) -> list[list[Any]]:
    try:
        places = {source: locate(archives, source) for source in [*corpora, TEST]}
    except CorpusError:
        if or_nothing:
            return []
        raise
    return file_identity(
        path for source, place in places.items() for path in input_files(place, source)
    )


def _download(sources: Sequence[Source], mirror: str | None, folder: Path) -> None:
    step(f"downloading to {folder}")
    for source in sources:
        url = source.url if mirror is None else f"{mirror.rstrip('/')}/{source.archive}"
        check = partial(check_archive, members=source.members)
        fetched = fetch(url, folder / source.archive, check=check, attempts=_ATTEMPTS)
        step(f"  {source.archive}: {'downloaded' if fetched else 'there already'}")


def _verify(
    log: StageLog,
    plan: Plan,
    archives: Path,
    corpora: Sequence[Source],
    args: argparse.Namespace,
) -> None:
    """See that every archive is whole and the one that its checksum tells of."""
    known = _read_checksums(args.sha256) if args.sha256 else {}
    log.run(
        Stage(
            "archives",
            {"inputs": plan.inputs, "checksums": known},
            [plan.folder.work / _CHECKSUMS],
            partial(_verify_archives, plan, archives, [*corpora, TEST], known, args),
        )
    )


def _verify_archives(
    plan: Plan,
    archives: Path,
    sources: Sequence[Source],
    known: dict[str, str],
    args: argparse.Namespace,
) -> Facts:
    recorded = archives / _CHECKSUMS
    if not known and recorded.is_file():
        known = _read_checksums(recorded)
    found = {}
    for source in sources:
        path = locate(archives, source)
        if not path.is_file():
            continue
        if not args.download:  # what was downloaded was looked through when it arrived
            check_archive(path, source.members)
        found[path.name] = digest = sha256_of(path)
        if known.get(path.name, digest) != digest:
            raise CorpusError(
                f"{path}: its SHA-256 is {digest}, but {known[path.name]} is expected "
                f"({args.sha256 or recorded}); get the archive again"
            )
        step(f"  {path.name}: whole, sha256 {digest}")
    _write_checksums(plan.folder.work / _CHECKSUMS, found)
    if args.download:
        _write_checksums(recorded, known | found)
    return {"sha256": found}


def _read_checksums(path: Path) -> dict[str, str]:
    checksums = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip():
            raise CorpusError(f"{path}, line {number}: not a line of sha256sum, HASH  NAME")
        checksums[name.strip().removeprefix("*").rsplit("/", 1)[-1]] = digest.lower()
    return checksums


def _write_checksums(path: Path, checksums: dict[str, str]) -> None:
    lines = (f"{checksums[name]}  {name}\n" for name in sorted(checksums))
    path.write_text("".join(lines), encoding="utf-8")


def _read(
    log: StageLog,
    plan: Plan,
    archives: Path,
    corpora: Sequence[Source],
    *,
    valid_every: int,
) -> PairText:
    """Clean the corpora one after the other, each a stage of its own, and the test set."""
    lines_before = valid_lines = 0
    parts: dict[str, list[Any]] = {"train": [], "valid": []}
    train_lines = []
    for source in corpora:
        files = {split: plan.folder.text(split, _PAIR, source.name) for split in parts}
        work = partial(
            write_training_text,
            locate(archives, source),
            source,
            files,
            lines_before=lines_before,
            valid_every=valid_every,
            workers=plan.given.workers,
            tell=step,
        )
        outputs = [path for pair in files.values() for path in pair.files]
        facts = log.run(Stage(f"text {source.name}", plan.text_settings, outputs, work))
        _tell_text(source, facts)
        lines_before += facts["read"]
        train_lines.append(facts["lines"]["train"])
        valid_lines += facts["lines"]["valid"]
        for split, pair in files.items():
            parts[split].append(pair)
    if not valid_lines or not sum(train_lines):
        raise CorpusError(
            f"--valid-every ({valid_every}): of {lines_before} lines none is left for "
            "validation or training; give another number"
        )
    test = plan.folder.text("test", _PAIR)
    log.run(
        Stage(
            f"text {TEST.name}",
            plan.text_settings,
            list(test.files),
            partial(_write_test, locate(archives, TEST), test),
        )
    )
    return PairText(_PAIR, {**parts, "test": [test]}, train_lines)


def _write_test(place: Path, files: Any) -> Facts:
    return {"lines": write_test_text(place, files)}


def _tell_text(source: Source, facts: Facts) -> None:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in facts["dropped"].items())
    step(f"  {source.name}: {facts['read']:,} sentence pairs; dropped: {dropped or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
