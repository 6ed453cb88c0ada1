"""Trains every variant with the same updates and writes a table of what they learned.

    python -m benchmarks.learning --corpus numbers --data quickstart/corpus --out runs/numbers
    python -m benchmarks.learning --corpus multi30k --data corpora/m30k-en-de --out runs/multi30k

Each run is trained, validated and scored at half its updates and at the end. A run that is
complete is not repeated, so an interrupted table goes on where it was; --only and --seeds choose
among the runs, and the table is of all that are complete.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.learning_variants import ALL, EXPERIMENTS, PROGRAMS, VARIANTS, Experiment
from user_dir.text.scoring.tables import format_markdown
from user_dir.text.scoring.train_log import read_train_log, records

ROOT = Path(__file__).resolve().parents[1]

HEADER = (
    "variant",
    "seed",
    "parameters",
    "nll, half",
    "BLEU, half",
    "nll, end",
    "BLEU, end",
    "balance",
    "tokens/s",
    "MB between nodes",
)


def main() -> None:
    """Train what is missing, then write the table."""
    args = _parse()
    experiment = EXPERIMENTS[args.corpus]
    for name in args.only or VARIANTS:
        for seed in args.seeds:
            run = args.out / f"{name.replace(', ', '-').replace('/', '-')}-seed{seed}"
            if not (run / "result.json").exists():
                _run(run, name, seed, experiment, args)
            _write_table(args.out)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=tuple(EXPERIMENTS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="the prepared folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(ALL),
        help="variants (default: those without clusters' kinds, controls and peers)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds (1)")
    parser.add_argument("--processes", type=int, default=2, help="results do not depend on it (2)")
    parser.add_argument(
        "--no-bleu", action="store_true", help="nll alone, without translating the test set"
    )
    parser.add_argument("--updates", type=int, help="instead of the experiment's own number")
    return parser.parse_args()


def _run(run: Path, name: str, seed: int, experiment: Experiment, args: argparse.Namespace) -> None:
    updates = args.updates or experiment.updates
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    call(
        run / "train.log",
        PROGRAMS.get(name, "user_dir.cli.train"),
        *("--processes", str(args.processes)),
        *train_arguments(run, name, seed, experiment, updates, args),
    )
    scores = {}
    for label, at in () if args.no_bleu else (("half", updates // 2), ("end", updates)):
        (checkpoint,) = run.glob(f"checkpoint_*_{at}.pt")
        arguments = ("--path", checkpoint, "--corpus", args.data, "--output", run / label)
        processes = ("--processes", str(args.processes))
        call(
            run / f"evaluate-{label}.log", "user_dir.cli.evaluate", *map(str, arguments), *processes
        )
        scores |= _scores(run / label, label)
    _write_result(run, name, seed, scores)
    for checkpoint in run.glob("checkpoint*.pt"):
        checkpoint.unlink()


def train_arguments(
    run: Path, name: str, seed: int, experiment: Experiment, updates: int, args: argparse.Namespace
) -> list[str]:
    """Of `scomoe-train` for a variant: data and processes are those of ``args``."""
    is_dense = experiment.is_dense(name)
    lists = args.data / "bin"
    arguments = [str(lists), *experiment.options, *experiment.changed_by(name)]
    if "scomoe_multilingual_translation" in experiment.options:
        arguments += ["--lang-dict", str(lists / "langs.txt")]
        arguments += ["--lang-pairs", str(lists / "pairs.txt")]
    if is_dense:  # has no ranks: each process takes the batches of several, one after the other
        arguments += ["--update-freq", str(4 // args.processes)]
    else:
        arguments += ["--moe-nodes", "2", "--moe-ranks-per-node", "2"]
    if "polynomial_decay" in experiment.options:
        arguments += ["--total-num-update", str(updates)]
    arguments += experiment.precision
    if experiment.precision and not is_dense:
        arguments += ["--moe-gating-use-fp32"]
    half = str(updates // 2)
    return [
        *arguments,
        *("--criterion", "moe_cross_entropy", "--label-smoothing", "0.1", "--clip-norm", "1"),
        *("--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)"),
        *("--max-update", str(updates), "--max-tokens", str(experiment.max_tokens)),
        *("--required-batch-size-multiple", "1", "--num-workers", "0", "--cpu"),
        *("--seed", str(seed), "--log-format", "json", "--log-interval", "20"),
        *("--save-dir", str(run), "--no-epoch-checkpoints", "--no-last-checkpoints"),
        *("--save-interval-updates", half, "--validate-interval-updates", half),
        *("--validate-interval", "1000000"),
    ]


def call(log: Path, module: str, *arguments: str) -> None:
    """Run one of our programs from the repository into a log; end this one if it fails."""
    print(f"{log.parent.name}: {module}", flush=True)
    command = [sys.executable, "-m", module, *arguments]
    with log.open("w") as file:
        done = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=_environment()
        )
    if done.returncode:
        sys.exit(f"{log}: ended with {done.returncode}\n{log.read_text()[-3000:]}")


def _environment() -> dict[str, str]:
    """One thread a process: several of them share the cores."""
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **os.environ}


def _scores(evaluation: Path, label: str) -> dict[str, float]:
    """BLEU and chrF of all directions' lines together."""
    command = [sys.executable, "-m", "user_dir.cli.report", "--evaluation", str(evaluation)]
    out = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True
    )
    row = next(line for line in out.stdout.splitlines() if line.startswith("all "))
    return {f"bleu_{label}": float(row.split()[3]), f"chrf_{label}": float(row.split()[4])}


def _write_result(run: Path, name: str, seed: int, scores: dict[str, float]) -> None:
    text = (run / "train.log").read_text()
    inner, valid = records(text, "train_inner"), records(text, "valid")
    last = inner[-1]
    result = {
        "variant": name,
        "seed": seed,
        "updates": int(last["num_updates"]),
        "parameters": _parameters(text),
        "nll_half": valid[0]["valid_nll_loss"],
        "nll_end": valid[-1]["valid_nll_loss"],
        **scores,
        "balance": last.get("moe_balance_loss"),
        "tokens_per_second": read_train_log(run / "train.log").tokens_per_second,
        # The backward pass sends as much again.
        "bytes_between": 2 * last.get("moe_bytes_between", 0),
    }
    partial = run / "result.json.partial"
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(run / "result.json")


def _parameters(log: str) -> int:
    """What our log line says; fairseq's for a dense model."""
    for line in log.splitlines():
        if "| parameters: " in line:
            return int(line.partition("| parameters: ")[2].split(",")[0])
    line = next(line for line in log.splitlines() if "num. shared model params" in line)
    return int(line.partition("num. shared model params: ")[2].split()[0].replace(",", ""))


def _tenths(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _write_table(out: Path) -> None:
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    order = list(ALL)
    results.sort(key=lambda r: (order.index(r["variant"]), r["seed"]))
    rows = [
        (
            r["variant"],
            str(r["seed"]),
            f"{r['parameters'] / 1e6:.2f} M",
            f"{r['nll_half']:.3f}",
            _tenths(r.get("bleu_half")),
            f"{r['nll_end']:.3f}",
            _tenths(r.get("bleu_end")),
            "" if r["balance"] is None else f"{r['balance']:.2f}",
            f"{r['tokens_per_second']:.0f}",
            f"{r['bytes_between'] / 1e6:.2f}",
        )
        for r in results
    ]
    if rows:
        (out / "table.md").write_text(format_markdown(HEADER, rows) + "\n")


if __name__ == "__main__":
    main()
