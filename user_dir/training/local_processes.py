"""Starts the processes of a run on this machine, and says how it ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from user_dir.errors import UserError
from user_dir.text.leftovers import temporary_folder
from user_dir.training.failures import LostPeers, OfOneProcess
from user_dir.training.stopping import INTERRUPTED, tell_end_by_interrupt

# What tells the processes of `spawn_local` that Ctrl-C was pressed. A terminal sends SIGINT to all
# of them beside their parent, so that they would take its passing on for a second one.
INTERRUPTION = signal.SIGUSR2
MENDABLE, LOST_PEERS = 2, 3  # exit statuses: a sentence says what would do; others have ended
_GRACE_SECONDS = 5.0
_PRECEDENCE_SECONDS = 5.0
# Those that lost a peer may go before it: it has a failure to report.
_MOURNING_SECONDS = 10.0


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen
    sentence_file: Path


def spawn_local(
    arguments: Sequence[str],
    num_processes: int,
    *,
    command: str = "scomoe-train",
    then: str = "Checkpoints are as they were last saved: run the same command to resume",
) -> int:
    """Run `python -m …` in several processes of this machine that know of each other.

    When one fails the others are stopped. The last line on standard error is the cause: the
    sentence of the process that failed, or how it ended; the exit status is its own.

    Args:
        command: the name that messages begin with.
        then: what to do when a process was ended.
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    # -P: a folder `fairseq` where the user stands is not to be taken for fairseq itself.
    python = [sys.executable, "-P", "-m", *arguments]
    with temporary_folder() as folder:
        shared = {
            **os.environ,
            "PYTHONPATH": _python_path(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "SCOMOE_PARENT": str(os.getpid()),
            "SCOMOE_INIT_METHOD": f"file://{folder}/rendezvous",
        }
        children: list[_Child] = []
        with _passing_on_signals(children) as signals:
            for index in range(num_processes):
                sentence_file = folder / f"sentence{index}"
                own = {"RANK": str(index), "LOCAL_RANK": str(index)}
                own["SCOMOE_SENTENCE_FILE"] = str(sentence_file)
                children.append(_Child(_start(python, {**shared, **own}), sentence_file))
            cause = _wait(children)
            _stop(children)
        if signals.num_interrupts:
            return _report_interruption(children, cause, command=command, then=then)
        return 0 if cause is None else _report(children, cause, command=command, then=then)


def tell_end(
    error: UserError, environment: Mapping[str, str], *, command: str = "scomoe-train"
) -> int:
    """Hand the sentence that ends this process to its parent, or print it; returns the status.

    What all processes have met alike is for the first of a machine to say; then torchrun ends the
    others, which wait for that.
    """
    local_index = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0"))
    if "SCOMOE_SENTENCE_FILE" in environment:
        Path(environment["SCOMOE_SENTENCE_FILE"]).write_text(str(error), encoding="utf-8")
    else:
        if local_index != "0" and not isinstance(error, OfOneProcess):
            time.sleep(_PRECEDENCE_SECONDS)
        print(f"{command}: error: {error}", file=sys.stderr)
    return LOST_PEERS if isinstance(error, LostPeers) else MENDABLE


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """A process that leaves Ctrl-C to this one."""
    taken = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which it inherits
    try:
        return subprocess.Popen(command, env=environment)
    finally:
        signal.signal(signal.SIGINT, taken)


def _python_path() -> str:
    """The path on which a child finds this package, and what the user asked for."""
    here = str(Path(__file__).resolve().parents[2])
    given = os.environ.get("PYTHONPATH")
    return f"{here}{os.pathsep}{given}" if given else here


def _wait(children: list[_Child]) -> int | None:
    """The process whose failure ended the run; None: all have done their work."""
    deadline = None
    while True:
        statuses = [child.process.poll() for child in children]
        failed = {index: status for index, status in enumerate(statuses) if status}
        causes = [(status > 0, i) for i, status in failed.items() if status != LOST_PEERS]
        if causes:
            return min(causes)[1]  # a killed one before those that failed of it
        if all(status == 0 for status in statuses):
            return None
        if failed:
            deadline = deadline or time.monotonic() + _MOURNING_SECONDS
            if None not in statuses or time.monotonic() > deadline:
                return min(failed)
        time.sleep(0.1)


def _report(children: list[_Child], cause: int, *, command: str, then: str) -> int:
    child = children[cause]
    status = child.process.returncode
    if status in (MENDABLE, LOST_PEERS) and child.sentence_file.exists():
        sentence = child.sentence_file.read_text(encoding="utf-8")
        print(f"{command}: error: {sentence}", file=sys.stderr)
    else:
        print(
            f"{command}: process {cause} of {len(children)} {_describe(status)}; the others "
            f"were stopped. {then}",
            file=sys.stderr,
        )
    return status if status > 0 else 128 - status


def _report_interruption(
    children: list[_Child], cause: int | None, *, command: str, then: str
) -> int:
    """The status of a run that Ctrl-C ended. Those that were told of it have spoken already."""
    if cause is None:
        return INTERRUPTED
    if children[cause].process.returncode in (-INTERRUPTION, -signal.SIGKILL):
        return tell_end_by_interrupt()
    return _report(children, cause, command=command, then=then)


def _describe(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"failed with status {status}"


def _stop(children: list[_Child]) -> None:
    processes = [child.process for child in children]
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _passing_on_signals:
    """Hands SIGTERM, SIGUSR1 and the first SIGINT of this process to its children meanwhile.

    A second SIGINT ends them at once.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, children: list[_Child]):
        self.children = children
        self.num_interrupts = 0

    def __enter__(self) -> "_passing_on_signals":
        # A job in the background ignores SIGINT, which is then not meant for it.
        taken = [s for s in self._SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._pass_on) for s in taken}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number, _frame) -> None:
        if number == signal.SIGINT:
            self.num_interrupts += 1
            number = INTERRUPTION if self.num_interrupts == 1 else signal.SIGKILL
        for child in self.children:
            if child.process.poll() is None:
                child.process.send_signal(number)
