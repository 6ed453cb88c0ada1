"""Time and memory of a command with all of its processes.

The largest process is the kernel's own figure. What all of them take together is sampled: shared
pages count once (PSS), and what comes and goes between two samples is missed.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Of a launcher: a command must not take itself for one of its processes.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_TENTHS = 10
# A process has at least the peak of the one that it was forked from: this one is small.
_LAUNCHER_CODE = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([status, used.ru_utime + used.ru_stime, used.ru_maxrss], file)
"""


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        processor_seconds: of all its processes.
        largest_mib: peak resident memory of its largest process.
        together_mib: the most that its processes had at once.
        tenths_mib: the most that they had at once in each tenth of the time.
    """

    seconds: float
    processor_seconds: float
    largest_mib: float
    together_mib: float
    tenths_mib: list[float]


def measure_command(command: Sequence[object], log: Path, *, every: float = 0.25) -> Usage:
    """Run a module of Python from the repository's root, one thread a process.

    Args:
        command: the module and its arguments.
        log: where its output goes.
        every: seconds between two samples.

    Raises:
        SystemExit: it failed; its last lines are in the message.
    """
    told = log.with_suffix(".usage")
    launcher = [sys.executable, "-S", "-c", _LAUNCHER_CODE, str(told)]
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*launcher, sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        sampler = _Sampler(process.pid, every)
        process.wait()
    seconds = time.monotonic() - start
    samples = sampler.end()
    status, processor_seconds, largest_kib = json.loads(told.read_text())
    told.unlink()
    if status:
        tail = log.read_text(encoding="utf-8")[-2000:]
        sys.exit(f"{command[0]} ended with {status}\n{tail}")
    return Usage(
        seconds,
        processor_seconds,
        largest_kib / 1024,
        max((mib for _, mib in samples), default=0.0),
        _most_in_tenths(samples, seconds),
    )


def _environment() -> dict[str, str]:
    dropped = (*_LAUNCHER, "OMP_NUM_THREADS", "PYTHONPATH")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class _Sampler:
    """Looks at the processes of a session, but for its first, from a thread."""

    def __init__(self, session: int, every: float) -> None:
        self._session, self._every = session, every
        self._samples: list[tuple[float, float]] = []
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[float, float]]:
        """(seconds since the start, MiB) of each sample."""
        self._ended.set()
        self._thread.join()
        return self._samples

    def _sample(self) -> None:
        while True:
            mib = sum(_proportional_mib(process) for process in _processes_of(self._session))
            if mib:
                self._samples.append((time.monotonic() - self._start, mib))
            if self._ended.wait(self._every):
                return


def _processes_of(session: int) -> Iterator[Path]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            # After the name, which may hold anything: state, parent, group, session.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session != int(folder.name):
                yield folder


def _proportional_mib(process: Path) -> float:
    with suppress(OSError):
        if found := _PSS.search((process / "smaps_rollup").read_text()):
            return int(found[1]) / 1024
    return 0.0


def _most_in_tenths(samples: Sequence[tuple[float, float]], seconds: float) -> list[float]:
    most = [0.0] * _TENTHS
    for at, mib in samples:
        tenth = min(int(_TENTHS * at / seconds), _TENTHS - 1)
        most[tenth] = max(most[tenth], mib)
    return most
