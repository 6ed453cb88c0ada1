"""Commands that run beside a test, which does something to them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.commands import ROOT, environment

_SECONDS = 200


@contextmanager
def running(
    command: Sequence[str | Path], out: Path, *, until: Callable[[str], object]
) -> Iterator[subprocess.Popen]:
    """A command in a session of its own, once its output, which goes to a file, is as wanted."""
    with out.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _SECONDS
        while not until(out.read_text()):
            assert process.poll() is None, out.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
