"""What benchmarks.decoding translates, and with which models: made once, kept in a folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.learning import VARIANTS
from benchmarks.training import SMALL, TINY, Size
from user_dir.text.subwords import Subwords

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TARGET = "en", "de"
# Of a launcher: a command must not take itself for one of its processes.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Plan:
    """What is trained and translated."""

    size: Size
    updates: int
    train_pairs: int
    lines: int
    # Where experts are spread, which is slow.
    few_lines: int
    start_lines: int  # of a run that shows what starting costs
    batch_size: int
    models: tuple[str, ...]


DEFAULT = Plan(
    size=TINY,
    updates=240,
    train_pairs=6000,
    lines=1600,
    few_lines=400,
    start_lines=16,
    batch_size=128,
    models=("dense", "gshard", "seq+cluster"),
)
SMALL_PLAN = Plan(
    size=SMALL,
    updates=5,
    train_pairs=200,
    lines=24,
    few_lines=24,
    start_lines=8,
    batch_size=8,
    models=("dense", "gshard"),
)


@dataclass(frozen=True)
class Work:
    """The folder of a plan."""

    folder: Path
    plan: Plan

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def binarised(self) -> Path:
        """For fairseq-generate: a subset for every number of lines."""
        return self.folder / "bin"

    @property
    def line_counts(self) -> tuple[int, ...]:
        plan = self.plan
        return tuple(sorted({plan.lines, plan.few_lines, plan.start_lines}, reverse=True))

    def subset(self, lines: int) -> str:
        """The name that fairseq-preprocess gives to a test set."""
        index = self.line_counts.index(lines)
        return f"test{index}" if index else "test"

    def text(self, lines: int) -> Path:
        """The first so many lines of the test set."""
        return self.folder / "text" / f"{lines}.{SOURCE}"

    def checkpoint(self, model: str) -> Path:
        return self.folder / model / "checkpoint_last.pt"


def prepare(work: Work, device: str) -> None:
    """Make what the folder does not have yet."""
    work.folder.mkdir(parents=True, exist_ok=True)
    _make_once(work.folder / "data.json", asdict(work.plan), lambda: _prepare_text(work))
    cores = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda model: _train(work, model, device), work.plan.models))


def call(command: Sequence[object], log: Path | None = None) -> subprocess.CompletedProcess:
    """Run a module of Python from the repository's root, on one thread a process.

    What it prints goes to the log, if there is one.
    """
    dropped = (*_LAUNCHER, "OMP_NUM_THREADS", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if log is not None:
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        sys.exit(
            f"{command[0]} ended with {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done


def train_command(work: Work, model: str, device: str) -> list[object]:
    """How a model is trained; the dense one is fairseq's transformer of equal arithmetic."""
    size, updates = work.plan.size, work.plan.updates
    options = [*size.options, "-s", SOURCE, "-t", TARGET, "--dropout", "0"]
    options += ["--label-smoothing", "0.1", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1"]
    options += ["--lr", "2e-3", "--lr-scheduler", "polynomial_decay", "--warmup-updates", "60"]
    options += ["--total-num-update", str(updates), "--max-update", str(updates)]
    options += ["--required-batch-size-multiple", "1", "--num-workers", "0", "--seed", "1"]
    options += ["--no-epoch-checkpoints", "--disable-validation", "--log-format", "json"]
    options += ["--save-dir", str(work.checkpoint(model).parent)]
    options += ["--cpu"] if device == "cpu" else []
    if model == "dense":
        # Every second layer of the mixtures sends each token to two experts.
        width = str(size.hidden * 3 // 2)
        options += ["--arch", "transformer", "--task", "translation", "--optimizer", "adam"]
        options += ["--encoder-ffn-embed-dim", width, "--decoder-ffn-embed-dim", width]
        options += ["--criterion", "label_smoothed_cross_entropy", "--max-tokens", "1000"]
        return ["fairseq_cli.train", work.corpus / "bin", *options]
    options += ["--arch", size.arch, "--task", "scomoe_translation", "--optimizer", "moe_adam"]
    for stack in ("encoder", "decoder"):
        options += [f"--{stack}-ffn-embed-dim", str(size.hidden)]
    options += ["--criterion", "moe_cross_entropy", *VARIANTS[model]]
    options += ["--moe-nodes", "2", "--moe-ranks-per-node", "2", "--max-tokens", "250"]
    return ["user_dir.cli.train", "--processes", "1", work.corpus / "bin", *options]


def _train(work: Work, model: str, device: str) -> None:
    command = [str(part) for part in train_command(work, model, device)]
    folder = work.checkpoint(model).parent

    def train() -> None:
        shutil.rmtree(folder, ignore_errors=True)  # fairseq would go on from what is there
        folder.mkdir()
        print(f"training {model}, {work.plan.updates} updates", file=sys.stderr)
        call(command, folder / "train.log")

    _make_once(folder / "command.json", command, train)


def _prepare_text(work: Work) -> None:
    """The corpus, and its test set as text and as fairseq-generate reads it."""
    plan = work.plan
    options = ["--languages", TARGET, "--train-pairs-per-language", plan.train_pairs]
    options += ["--valid-lines", 20, "--test-lines", 2 * plan.lines, "--vocab-size", 150]
    call(["user_dir.cli.prepare_numbers", "--out", work.corpus, "--overwrite", *options])
    subwords = Subwords((work.corpus / "spm.model").read_bytes())
    for language in (SOURCE, TARGET):
        raw = work.corpus / "raw" / f"test.{SOURCE}-{TARGET}.{language}"
        lines = raw.read_text(encoding="utf-8").splitlines()
        for count in work.line_counts:
            _write_lines(work.text(count).with_suffix(f".{language}"), lines[:count])
            pieces = work.folder / "pieces" / f"{count}.{language}"
            _write_lines(pieces, subwords.encode(lines[:count]))
    shutil.rmtree(work.binarised, ignore_errors=True)
    prefixes = ",".join(str(work.folder / "pieces" / str(count)) for count in work.line_counts)
    options = ["-s", SOURCE, "-t", TARGET, "--testpref", prefixes, "--destdir", work.binarised]
    for side, language in ("src", SOURCE), ("tgt", TARGET):
        options += [f"--{side}dict", work.corpus / "bin" / f"dict.{language}.txt"]
    call(["fairseq_cli.preprocess", *options])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _make_once(note: Path, how: object, make) -> None:
    """Call ``make`` unless the note says that it was done in the same way."""
    text = json.dumps(how, indent=1) + "\n"
    if note.exists() and note.read_text() == text:
        return
    note.unlink(missing_ok=True)
    make()
    note.write_text(text)
