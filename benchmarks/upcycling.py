"""Trains mixtures that a dense model became, to compare them with mixtures from scratch.

    python -m benchmarks.upcycling --data corpora/m30k-en-de --out runs/upcycling --seeds 1 2 3
    python -m benchmarks.upcycling

For each seed a dense model is trained with the settings of benchmarks.learning's multi30k-short,
becomes a mixture (`scomoe-upcycle`), and that takes as many updates again, on the same batches.
What mixtures from scratch and dense models have after as many updates in all stands in
results/learning.json: after one such half in multi30k-short, after two half-way of multi30k-long.
Runs that are complete are kept; without --data the table is printed of results/upcycling.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.learning import call, train_arguments
from benchmarks.learning_results import estimates, read_results
from benchmarks.learning_variants import EXPERIMENTS
from user_dir.text.scoring.tables import format_markdown
from user_dir.text.scoring.train_log import records

RESULTS = Path(__file__).parent / "results" / "upcycling.json"
SHORT, LONG = EXPERIMENTS["multi30k-short"], EXPERIMENTS["multi30k-long"]
MIXTURE = ("--moe-freq", "2", "--moe-expert-count", "8")
LAYOUT = ("--moe-nodes", "2", "--moe-ranks-per-node", "2")
RUN = "dense, then gshard"
HEADER = ("run", "dense updates", "mixture updates", "seeds", "nll")
Record = dict[str, Any]


def main() -> None:
    """Train what is missing, write the figures, print the table."""
    args = _parse()
    if args.data:
        _train_all(args)
    if not args.results.exists():
        raise SystemExit(f"--results {args.results}: no such file; --data and --out train")
    print(format_markdown(HEADER, table_rows(json.loads(args.results.read_text()))))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the prepared folder")
    parser.add_argument("--out", type=Path, default=Path("runs/upcycling"), help="of the runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds (1)")
    parser.add_argument("--updates", type=int, default=SHORT.updates, help="of each half (240)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"the file ({RESULTS.name})")
    args = parser.parse_args()
    args.processes = 1  # as training arguments are made for
    return args


def _train_all(args: argparse.Namespace) -> None:
    found = []
    for seed in args.seeds:
        dense = _dense(args.out / f"dense-seed{seed}", seed, args)
        folder = args.out / f"upcycled-seed{seed}"
        if not (folder / "result.json").exists():
            _train(folder, seed, dense, args)
        found.append(json.loads((folder / "result.json").read_text()))
    _write(args.results, found)


def _dense(folder: Path, seed: int, args: argparse.Namespace) -> Path:
    """The checkpoint of the dense model, which is trained unless it is there."""
    checkpoint = folder / f"checkpoint_1_{args.updates}.pt"
    if not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        arguments = train_arguments(folder, "dense", seed, SHORT, args.updates, args)
        call(folder / "train.log", "user_dir.cli.train", *arguments)
    return checkpoint


def _train(folder: Path, seed: int, dense: Path, args: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    start = folder / "start.pt"
    start.unlink(missing_ok=True)
    options = ("--out", str(start), "--seed", str(seed), *MIXTURE, *LAYOUT)
    call(folder / "upcycle.log", "user_dir.cli.upcycle", str(dense), *options)
    arguments = train_arguments(folder, "gshard", seed, SHORT, args.updates, args)
    arguments += ["--finetune-from-model", str(start)]
    call(folder / "train.log", "user_dir.cli.train", *arguments)
    valid = records((folder / "train.log").read_text(), "valid")
    result = {
        "run": RUN,
        "seed": seed,
        "updates": args.updates,
        "nll_half": valid[0]["valid_nll_loss"],
        "nll_end": valid[-1]["valid_nll_loss"],
    }
    _write(folder / "result.json", result)
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()


def _write(path: Path, content: Record | list[Record]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def table_rows(found: list[Record]) -> list[tuple[str, ...]]:
    """Of the runs, and of those of benchmarks.learning that had as many updates."""
    half = SHORT.updates
    groups: dict[tuple[str, int, int], list[float]] = {}
    for record in read_results("multi30k-short"):
        _add_scratch(groups, record, half, record["nll_end"])
    for record in read_results("multi30k-long"):
        _add_scratch(groups, record, LONG.updates // 2, record["nll_half"])
    for record in found:
        updates = record["updates"]
        groups.setdefault((record["run"], updates, updates), []).append(record["nll_end"])
    texts = estimates({str(key): values for key, values in groups.items()})
    return [
        (*map(str, key), str(len(groups[key])), texts[str(key)].text())
        for key in sorted(groups, key=lambda key: (key[1] + key[2], key))
    ]


def _add_scratch(groups: dict, record: Record, updates: int, nll: float) -> None:
    """A dense model's or a mixture's that started from nothing."""
    if record["variant"] in ("dense", "gshard"):
        is_dense = record["variant"] == "dense"
        key = (record["variant"], updates if is_dense else 0, 0 if is_dense else updates)
        groups.setdefault(key, []).append(nll)


if __name__ == "__main__":
    main()
