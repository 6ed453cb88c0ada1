"""Sentences a second of scomoe-translate: against fairseq-generate, mixtures, processes.

    python -m benchmarks.decoding        (five minutes on two cores; the first time two more)

Commands run as a user types them, one thread a process, with the same beam, length limit and
batches of as many sentences. Each of them starts Python, loads a model and translates; to tell
these apart it runs on many lines and on few, and sentences a second are the difference of the lines
over the difference of the times. What fairseq-generate and scomoe-translate report themselves
starts and ends at different places, and knows nothing of workers that start.

The models learn to translate numbers in words well enough to end their sentences; they are kept in
--work. The dense one is fairseq's `transformer`, as wide as the two experts of a token ask for.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.decoding_models import (
    DEFAULT,
    ROOT,
    SMALL_PLAN,
    SOURCE,
    TARGET,
    Work,
    call,
    prepare,
)
from benchmarks.timing import Timing, parse_arguments, profile_table, write_results
from benchmarks.trainers import require_fairseq
from user_dir.text.scoring.tables import format_markdown

BEAM, MAX_LEN = 5, 100
BUDGET_SECONDS = 240.0  # for all rounds, without --full
HEADER = (
    "model",
    "command",
    "whole, s",
    "start-up, s",
    "sentences/s",
    "of dense",
    "of 1 process",
)


@dataclass(frozen=True)
class Command:
    """A command that translates, and how it is started."""

    model: str
    processes: int = 1
    is_spread: bool = False
    is_fairseq: bool = False

    @property
    def name(self) -> str:
        if self.is_fairseq:
            return "fairseq-generate"
        options = f" --processes {self.processes}" * (self.processes > 1)
        return f"scomoe-translate{options}{' --spread-experts' * self.is_spread}"

    def line(self, work: Work, lines: int, output: Path, device: str) -> list[object]:
        """What to run; scomoe-translate writes to the output, fairseq-generate prints."""
        if self.is_fairseq:
            # --user-dir: fairseq alone cannot read its checkpoints with a recent torch.
            command = ["fairseq_cli.generate", work.binarised, "--user-dir", "user_dir"]
            command += ["-s", SOURCE, "-t", TARGET, "--gen-subset", work.subset(lines)]
            command += ["--post-process", "sentencepiece", "--required-batch-size-multiple", 1]
        else:
            command = ["user_dir.cli.translate", "--input", work.text(lines), "--output", output]
            command += ["--processes", self.processes] if self.processes > 1 else []
            command += ["--spread-experts"] * self.is_spread
        command += ["--path", work.checkpoint(self.model), "--beam", BEAM, "--max-len-b", MAX_LEN]
        command += ["--batch-size", work.plan.batch_size]
        return [*command, *["--cpu"] * (device == "cpu")]


@dataclass(frozen=True)
class Run:
    """Seconds of a command on many lines and on few."""

    lines: int
    seconds: float
    start_lines: int
    start_seconds: float

    @property
    def rate(self) -> float:
        """Sentences a second once it has started."""
        return (self.lines - self.start_lines) / max(self.seconds - self.start_seconds, 1e-9)


def main() -> None:
    """Measure all commands in turns; print a table and write JSON."""
    args = parse_arguments(__doc__, _add_options)
    require_fairseq("benchmarks.decoding")
    torch.set_num_threads(1)  # as in the commands, for what is written about the hardware
    plan = SMALL_PLAN if args.small else DEFAULT
    work = Work((args.work / ("small" if args.small else "default")).resolve(), plan)
    prepare(work, args.device.type)
    if args.profile:
        print(profile_decoding(work, args.profile, args.device))
        return
    commands = list_commands(plan.models, is_small=args.small)
    runs = measure_commands(commands, work, args)
    equal = share_equal(*_dense_outputs(work))
    records = [_record(command, runs, equal) for command in commands]
    print(format_markdown(HEADER, [_row(record) for record in records]))
    print(
        f"\ndense model, scomoe-translate against fairseq-generate: {equal:.1%} of "
        f"{plan.lines} hypotheses equal"
    )
    print(f"\nwritten to {write_results('decoding', records, args)}")


def list_commands(models: Sequence[str], *, is_small: bool) -> list[Command]:
    """Every model on 1 and 2 processes, mixtures also with spread experts."""
    commands = [Command("dense", is_fairseq=True)]
    for model in models:
        commands += [Command(model)] if is_small else [Command(model), Command(model, processes=2)]
        if model != "dense" and not is_small:
            commands += [Command(model, processes=2, is_spread=True)]
    return commands


def measure_commands(
    commands: Sequence[Command], work: Work, args: argparse.Namespace
) -> dict[Command, list[Run]]:
    """A run of each command in every round; two rounds at least, fewer than asked for in time."""
    runs: dict[Command, list[Run]] = {command: [] for command in commands}
    start = time.perf_counter()
    for done in range(args.repeat):
        spent = time.perf_counter() - start
        if done >= 2 and not args.full and spent * (done + 1) / done > BUDGET_SECONDS:
            break
        for command in commands:
            runs[command].append(run_command(command, work, args.device.type))
    return runs


def run_command(command: Command, work: Work, device: str) -> Run:
    """Translate many lines and few."""
    plan = work.plan
    counts = (plan.few_lines if command.is_spread else plan.lines, plan.start_lines)
    seconds = []
    for lines in counts:
        output = _output(work, command, lines)
        line = command.line(work, lines, output, device)
        start = time.perf_counter()
        done = call(line)
        seconds.append(time.perf_counter() - start)
        if command.is_fairseq:
            output.write_text(done.stdout, encoding="utf-8")
    return Run(counts[0], seconds[0], counts[1], seconds[1])


def hypotheses(printed: str) -> list[str]:
    """The translations that fairseq-generate printed, in the order of the lines."""
    rows = [line.split("\t") for line in printed.splitlines() if line.startswith("D-")]
    return [row[-1] for row in sorted(rows, key=lambda row: int(row[0].partition("-")[2]))]


def share_equal(first: Sequence[str], second: Sequence[str]) -> float:
    """Of the lines, how many are the same in both."""
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def profile_decoding(work: Work, model: str, device: torch.device, rows: int = 30) -> str:
    """Where scomoe-translate spends the time of one batch, in this process."""
    from user_dir.text.subwords import Subwords
    from user_dir.translation.decoding import Batch, Decoding
    from user_dir.translation.engine import Engine

    engine = Engine(
        Decoding(
            paths=(str(work.checkpoint(model)),),
            data=str(work.corpus / "bin"),
            overrides={
                "source_lang": SOURCE,
                "target_lang": TARGET,
                "data": str(work.corpus / "bin"),
                "eval_bleu": False,
            },
            beam=BEAM,
            lenpen=1.0,
            max_len_a=0.0,
            max_len_b=MAX_LEN,
            dtype="float32",
            on_cpu=device.type == "cpu",
        )
    )
    subwords = Subwords((work.corpus / "spm.model").read_bytes())
    lines = work.text(work.plan.lines).read_text(encoding="utf-8").splitlines()
    # Neighbours in length, as the command makes its batches.
    pieces = sorted(subwords.encode(lines), key=len)
    middle = len(pieces) // 2
    batch = Batch(pieces[middle : middle + work.plan.batch_size])
    engine.translate(batch)
    return profile_table(lambda: engine.translate(batch), device, rows=rows)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "decoding",
        metavar="FOLDER",
        help="where corpus and models are kept (default: runs/decoding)",
    )
    parser.add_argument(
        "--profile", metavar="MODEL", help="print torch's profile of one batch, by dense or gshard"
    )


def _output(work: Work, command: Command, lines: int) -> Path:
    folder = work.folder / "out"
    folder.mkdir(exist_ok=True)
    name = f"{command.model}-{command.name}-{lines}".replace(" ", "")
    return folder / name


def _dense_outputs(work: Work) -> tuple[list[str], list[str]]:
    """fairseq-generate's hypotheses and scomoe-translate's."""
    theirs, ours = (
        _output(work, command, work.plan.lines).read_text(encoding="utf-8")
        for command in (Command("dense", is_fairseq=True), Command("dense"))
    )
    return hypotheses(theirs), ours.split("\n")[:-1]


def _record(command: Command, runs: dict[Command, list[Run]], equal: float) -> dict:
    own = runs[command]
    rates = [run.rate for run in own]
    alone = median(run.rate for run in runs[Command(command.model)])
    dense = median(run.rate for run in runs[Command("dense", processes=command.processes)])
    return {
        "model": command.model,
        "command": command.name,
        "lines": own[0].lines,
        "start_lines": own[0].start_lines,
        "seconds": {
            "whole": Timing.of([run.seconds for run in own]),
            "start": Timing.of([run.start_seconds for run in own]),
        },
        "sentences_per_second": {
            "median": median(rates),
            "min": min(rates),
            "max": max(rates),
        },
        "of_dense": median(rates) / dense,
        "of_one_process": median(rates) / alone,
        "dense_hypotheses_equal": equal,
    }


def _row(record: dict) -> tuple[str, ...]:
    rate = record["sentences_per_second"]
    return (
        record["model"],
        record["command"],
        _seconds(record["seconds"]["whole"]),
        _seconds(record["seconds"]["start"]),
        f"{rate['median']:.0f} ({rate['min']:.0f} to {rate['max']:.0f})",
        f"{record['of_dense']:.2f}",
        f"{record['of_one_process']:.2f}",
    )


def _seconds(timing: Timing) -> str:
    return f"{timing.median:.1f} ({timing.min:.1f} to {timing.max:.1f})"


if __name__ == "__main__":
    main()
