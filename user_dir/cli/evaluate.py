"""Translate and score the test sets of a prepared corpus, many directions with one model.

Writes into --output a translation for each direction (test.en-de.de) and the scores
(scores.md, scores.tsv, scores.json). Started again, it goes on where it was stopped.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.checkpoints.files import open_checkpoint, task_options
from user_dir.cli.command import run_command
from user_dir.errors import UserError
from user_dir.text.lines import clean_line
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.scoring.score_tables import (
    HEADER,
    Group,
    direction_rows,
    language_groups,
    mean_rows,
    resource_groups,
)
from user_dir.text.scoring.scores import signatures
from user_dir.text.scoring.tables import format_markdown, format_tsv
from user_dir.text.scoring.test_sets import (
    TestSet,
    Translated,
    count_train_pairs,
    read_test_set,
    read_translated,
    translation_name,
)
from user_dir.text.subwords import Subwords
from user_dir.text.whole_output import write_whole
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
    resolve,
)
from user_dir.translation.progress import Progress
from user_dir.translation.sentences import in_order, make_batches
from user_dir.translation.translator import Batch, Decoding
from user_dir.translation.workers import translate_batches

COMMAND = "scomoe-evaluate"

SETTINGS, SCORES = "settings.json", "scores.json"


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/translating.md describes them with examples."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="DIR", help="a prepared folder")
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
    return run_command(COMMAND, lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    directions = _directions(args)
    args.data = args.data or str(args.corpus / "bin")
    args.source_lang, args.target_lang = directions[0].languages
    decoding = resolve(args)
    test_sets = [read_test_set(args.corpus, args.subset, one) for one in directions]
    _open_output(args, decoding)
    unfinished = [
        one for one in test_sets if read_translated(args.output, args.subset, one) is None
    ]
    if len(unfinished) < len(test_sets):
        print(f"{len(test_sets) - len(unfinished)} of {len(test_sets)} directions are done already")
    _translate(unfinished, args, decoding)
    translated = [read_translated(args.output, args.subset, one) for one in test_sets]
    _write_scores([one for one in translated if one is not None], args)


def _directions(args: argparse.Namespace) -> list[Pair]:
    options = task_options(open_checkpoint(args.path.split(":")[0], flag="--path"))
    trained = options.get("lang_pairs") or f"{options['source_lang']}-{options['target_lang']}"
    if not isinstance(trained, str):
        trained = ",".join(trained)
    if Path(trained).is_file():  # as --lang-pairs may name
        trained = Path(trained).read_text(encoding="utf-8").strip()
    directions = parse_directions(args.directions or trained, flag="--directions")
    if options.get("lang_pairs") is None and [str(one) for one in directions] != [trained]:
        raise UserError(f"--directions {args.directions}: the checkpoint translates {trained} only")
    return directions


def _open_output(args: argparse.Namespace, decoding: Decoding) -> None:
    """Make the folder, or see that what it holds was made with the same settings."""
    settings = _settings(args, decoding)
    path = args.output / SETTINGS
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed and not args.overwrite:
            raise UserError(
                f"--output ({args.output}) holds translations with other settings "
                f"({', '.join(changed)} changed); name another folder, or add --overwrite"
            )
        if changed:
            for old in args.output.glob(f"{args.subset}.*-*.*"):
                old.unlink()
    elif args.output.exists() and any(args.output.iterdir()):
        raise UserError(
            f"--output ({args.output}) exists and holds something else; name another folder"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(settings, indent=2) + "\n", flag="--output")


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
        "dtype": str(decoding.dtype),
    }


@dataclass(frozen=True)
class _Job:
    """A batch and where its lines come from."""

    test_set: TestSet
    indices: list[int]
    batch: Batch


def _translate(test_sets: Sequence[TestSet], args: argparse.Namespace, decoding: Decoding) -> None:
    """Translate the test sets one after the other; each is written once it is complete."""
    if not test_sets:
        return
    subwords = Subwords((args.corpus / "spm.model").read_bytes())
    jobs = [job for one in test_sets for job in _jobs(one, subwords, args)]
    missing = {one.direction: len(one.sources) for one in test_sets}
    done: dict[Pair, dict[int, str]] = {one.direction: {} for one in test_sets}
    progress = Progress(COMMAND, sum(missing.values()), is_on=args.progress)
    results = translate_batches(decoding, [job.batch for job in jobs], processes=args.processes)
    for number, translations in results:
        job = jobs[number]
        direction = job.test_set.direction
        texts = [clean_line(subwords.decode(one.pieces)) for one in translations]
        done[direction].update(zip(job.indices, texts, strict=True))
        progress.add(translations)
        if len(done[direction]) == missing[direction]:
            lines = in_order(done.pop(direction), job.test_set.sources)
            path = args.output / translation_name(args.subset, direction)
            write_whole(path, "".join(f"{line}\n" for line in lines), flag="--output")
    progress.finish()
    print(
        f"translated {progress.done} lines of {len(test_sets)} direction(s) in "
        f"{progress.seconds:.1f} s ({progress.pieces / progress.seconds:.0f} tokens/s)"
    )


def _jobs(test_set: TestSet, subwords: Subwords, args: argparse.Namespace) -> list[_Job]:
    sources = subwords.encode(test_set.sources)
    batches = make_batches(
        sources,
        max_tokens=args.max_tokens,
        batch_size=args.batch_size,
        equal_lengths=args.max_len_a > 0,
        processes=args.processes,
    )
    return [
        _Job(test_set, indices, Batch([sources[index] for index in indices], test_set.direction))
        for indices in batches
    ]


def _write_scores(translated: Sequence[Translated], args: argparse.Namespace) -> None:
    rows = direction_rows(translated)
    means = mean_rows(rows, [*language_groups(args.pivot), *_resource_groups(translated, args)])
    cells = [row.cells() for row in [*rows, *means]]
    record = {
        "signatures": signatures(),
        "directions": [row.record() for row in rows],
        "means": [row.record() for row in means],
    }
    notes = "".join(f"\n{name}: {text}" for name, text in signatures().items())
    markdown = format_markdown(HEADER, cells)
    for name, text in (
        ("scores.md", f"{markdown}\n{notes}\n"),
        ("scores.tsv", format_tsv(HEADER, cells) + "\n"),
        (SCORES, json.dumps(record, indent=2) + "\n"),
    ):
        write_whole(args.output / name, text, flag="--output")
    print(f"wrote {args.output}: translations, scores.md, scores.tsv, {SCORES}")


def _resource_groups(translated: Sequence[Translated], args: argparse.Namespace) -> list[Group]:
    directions = [one.test_set.direction for one in translated]
    counts = {one: count_train_pairs(args.corpus, one) for one in directions}
    known = {one: count for one, count in counts.items() if count is not None}
    return resource_groups(known) if len(known) == len(counts) else []


if __name__ == "__main__":
    sys.exit(main())
