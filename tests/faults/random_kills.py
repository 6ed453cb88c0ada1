"""Kills a training of two processes at random, in every phase, and checks that nothing is lost.

    python -m tests.faults.random_kills [--kills N] [--seed S] [--out FILE]

Each start ends with SIGKILL to one process or to both, some random time after a random line of the
log: while it loads, trains, saves, copies or validates. The next start must go on from the newest
save that the log told of, or a later one. When a run has come to its end, its losses, its model and
its optimizer's state must be those of a run that nobody killed, bit for bit. Processes are forked
from one that has imported all, so that a start takes a second.
"""

import argparse
import logging
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from tests.support.commands import train_arguments, updates_of
from user_dir.cli import prepare_numbers, train
from user_dir.training.local_processes import LOST_PEERS

# What a start needs is there when it is forked, but for what sets up its log.
for _name in (
    *("user_dir.register", "user_dir.checkpoints.mending", "user_dir.training.trainer"),
    *("user_dir.training.connection", "torch._dynamo"),
):
    import_module(_name)
# fairseq's models have set up a log of their own; its training does if there is none.
logging.root.handlers.clear()

UPDATES = 24
# What the log says as a phase begins, and how many times as often as the others it is chosen.
PHASES = {
    "starting": ("| INFO | fairseq.tasks", 1),
    "loading": ("Preparing to load checkpoint", 2),
    "training": ("| train_inner |", 4),
    "saving": ("Saving checkpoint to", 3),
    "copying": ("Finished saving checkpoint to", 3),
    "validating": ("begin validation on", 3),
    "going on": ("Saved checkpoint", 1),
}
LONGEST_DELAY = 0.15
SECONDS_TO_END = 120
_SAVED = re.compile(r"Saved checkpoint \S+ \(epoch \d+ @ (\d+) updates")
_LOADED = re.compile(r"Loaded checkpoint \S+ \(epoch \d+ @ (\d+) updates")
OPTIONS = (
    *("--save-interval-updates", "3", "--keep-interval-updates", "2", "--no-epoch-checkpoints"),
    *("--update-freq", "1", "--max-update", str(UPDATES)),
)


@dataclass
class Start:
    """One start of a run: what its processes wrote, and how they ended."""

    log: str
    statuses: list[int]
    phase: str = ""

    @property
    def last_save(self) -> int:
        return max((int(number) for number in _SAVED.findall(self.log)), default=0)

    @property
    def has_begun(self) -> bool:
        """Whether it came to look for a checkpoint."""
        return _LOADED.search(self.log) is not None or "No existing checkpoint" in self.log

    @property
    def loaded(self) -> int:
        found = _LOADED.search(self.log)
        return int(found[1]) if found else 0


@dataclass
class Outcome:
    """What has come of all kills."""

    kills: Counter = field(default_factory=Counter)
    runs: int = 0
    lost: int = 0
    different: int = 0
    unexpected: int = 0


class Killer:
    """Chooses when a start is killed, and does it."""

    def __init__(self, rng: random.Random):
        names = list(PHASES)
        (self.phase,) = rng.choices(names, [PHASES[name][1] for name in names])
        self.line = PHASES[self.phase][0]
        self.times = rng.randint(1, 8 if self.phase == "training" else 3)
        self.delay = rng.uniform(0, LONGEST_DELAY)
        self.victims = rng.choice(([0], [1], [0, 1], [1, 0]))

    def is_time(self, log: str) -> bool:
        return log.count(self.line) >= self.times

    def kill(self, children: list[int]) -> None:
        time.sleep(self.delay)
        for victim in self.victims:
            os.kill(children[victim], signal.SIGKILL)


def start(arguments: list[str], folder: Path, killer: Killer | None) -> Start:
    """Run two processes to their end, or kill some and wait for the others."""
    log = folder / "log"
    log.write_text("")
    with tempfile.TemporaryDirectory() as meeting:
        children = [fork_trainer(arguments, index, log, Path(meeting)) for index in range(2)]
        statuses: dict[int, int] = {}
        began, is_killed = time.monotonic(), False
        while len(statuses) < len(children):
            for child in set(children) - set(statuses):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    statuses[child] = os.waitstatus_to_exitcode(status)
            if killer and not is_killed and not statuses and killer.is_time(log.read_text()):
                killer.kill(children)
                is_killed = True
            if time.monotonic() - began > SECONDS_TO_END:
                for child in set(children) - set(statuses):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
    phase = killer.phase if killer and is_killed else ""
    return Start(log.read_text(), [statuses[child] for child in children], phase)


def fork_trainer(arguments: list[str], index: int, log: Path, meeting: Path) -> int:
    """A process that trains as one of two; returns its id."""
    if child := os.fork():
        return child
    status = 70
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= {
            **{"RANK": str(index), "LOCAL_RANK": str(index)},
            **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            "SCOMOE_INIT_METHOD": f"file://{meeting}/rendezvous",
        }
        status = train.main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(status)


def check_start(now: Start, saved: int, outcome: Outcome, report: Callable) -> None:
    """Count what was lost since an update that was saved, and ends that are no end of a victim."""
    if now.has_begun and now.loaded < saved:
        outcome.lost += saved - now.loaded
        report(f"LOST: saved at update {saved}, went on from {now.loaded}\n{now.log}")
    usual = (0, LOST_PEERS, -signal.SIGKILL) if now.phase else (0,)
    if any(status not in usual for status in now.statuses):
        outcome.unexpected += 1
        report(f"UNEXPECTED END: {now.statuses}\n{now.log}")


def state_of(save_dir: Path) -> dict[str, torch.Tensor]:
    """The model and the optimizer's state at the end of a run."""
    state = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)
    moments = state["last_optimizer_state"]["state"]
    flat = {f"{i} {key}": value for i, part in moments.items() for key, value in part.items()}
    return state["model"] | flat


def losses_of(log: str) -> dict[int, tuple[float, float]]:
    return {number: (record["loss"], record["gnorm"]) for number, record in updates_of(log).items()}


def is_same(mine: dict, wanted: dict) -> bool:
    """Whether two flat states hold the same bits."""
    return mine.keys() == wanted.keys() and all(
        torch.equal(value, wanted[name]) if torch.is_tensor(value) else value == wanted[name]
        for name, value in mine.items()
    )


def kill_one_run(
    arguments: list[str],
    folder: Path,
    expected: tuple[dict, dict],
    *,
    rng: random.Random,
    outcome: Outcome,
    most_kills: int,
    report: Callable,
) -> None:
    """Start a run again and again until it is done, and compare it with the expected one."""
    saved, losses, is_done = 0, {}, False
    while not is_done:
        killer = Killer(rng) if outcome.kills.total() < most_kills else None
        now = start(arguments, folder, killer)
        check_start(now, saved, outcome, report)
        if now.phase:
            outcome.kills[now.phase] += 1
            report(
                f"kill {outcome.kills.total()}: {now.phase}, processes {killer.victims}, "
                f"from update {now.loaded}, saved {now.last_save}, ends {now.statuses}"
            )
        saved = max(saved, now.last_save)
        losses |= losses_of(now.log)
        is_done = now.statuses == [0, 0]
        assert is_done or killer, now.log
    outcome.runs += 1
    others = sorted(n for n in losses.keys() | expected[0] if losses.get(n) != expected[0].get(n))
    same_state = is_same(state_of(folder / "save"), expected[1])
    if others or not same_state:
        outcome.different += 1
        report(f"DIFFERENT: losses of updates {others}, model and optimizer {same_state}")


def main(argv: list[str] | None = None) -> int:
    """Kill, resume, compare; the status is 1 if anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("/dev/stdout"))
    args = parser.parse_args(argv)
    rng, outcome = random.Random(args.seed), Outcome()

    def report(line: str) -> None:
        with args.out.open("a") as file:
            print(line, file=file, flush=True)

    report(f"seed {args.seed}, {args.kills} kills")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        corpus = prepare(Path(place))
        reference = arguments_of(corpus, Path(place) / "reference")
        whole = start(reference, folder_of(reference), None)
        assert whole.statuses == [0, 0], whole.log
        expected = losses_of(whole.log), state_of(Path(place) / "reference" / "save")
        assert sorted(expected[0]) == list(range(1, UPDATES + 1))
        while outcome.kills.total() < args.kills:
            run = arguments_of(corpus, Path(place) / f"run{outcome.runs}")
            kill_one_run(
                run,
                folder_of(run),
                expected,
                rng=rng,
                outcome=outcome,
                most_kills=args.kills,
                report=report,
            )
    report(
        f"{outcome.kills.total()} kills ({dict(outcome.kills)}) of {outcome.runs} runs of {UPDATES}"
        f" updates: {outcome.lost} updates lost beyond the last save, {outcome.different} runs "
        f"with other losses or states, {outcome.unexpected} unexpected ends"
    )
    return int(bool(outcome.lost or outcome.different or outcome.unexpected))


def prepare(place: Path) -> Path:
    """A corpus of 60 training pairs; made in a process of its own, so that no thread stays."""
    if not (child := os.fork()):
        arguments = ["--out", str(place / "corpus"), "--languages", "de", "--vocab-size", "120"]
        arguments += ["--train-pairs-per-language", "60"]
        os._exit(
            prepare_numbers.main([*arguments, "--valid-lines", "30", "--test-lines", "4"]) or 0
        )
    assert os.waitpid(child, 0)[1] == 0
    return place / "corpus"


def arguments_of(corpus: Path, folder: Path) -> list[str]:
    folder.mkdir()
    arguments = train_arguments(corpus / "bin", folder / "save", max_tokens=40)
    return list(map(str, [*arguments, *OPTIONS]))


def folder_of(arguments: list[str]) -> Path:
    return Path(arguments[arguments.index("--save-dir") + 1]).parent


if __name__ == "__main__":
    sys.exit(main())
