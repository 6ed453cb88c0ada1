"""A server, and bash with a PATH on which its commands are."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import ROOT, environment
from tests.support.shell.parsing import FOREIGN

_OURS = re.findall(
    r'^    "([a-z0-9-]+)",$', (ROOT / "setup.py").read_text().partition(")")[0], re.MULTILINE
)
FAIRSEQ = ("fairseq-train", "fairseq-generate", "fairseq-preprocess", "fairseq-hydra-train")
_PYTHON = ("python", "python3")
_LAUNCHERS = ("torchrun", "srun")
# What all commands of ours import, or those of fairseq; this package is imported by each itself.
IMPORTED = ("fairseq_cli.train", "fairseq_cli.generate", "sacrebleu", "sentencepiece")
_SECONDS = 240


@dataclass(frozen=True)
class Shell:
    """Runs scripts of bash in a folder; `only_parses` has the commands read their options alone."""

    commands: Path
    socket: Path
    only_parses: bool

    def run(
        self, script: str, folder: Path, *, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run it; a failure has its output."""
        path = f"{self.commands}:/usr/local/bin:/usr/bin:/bin"
        own = {"PATH": path, "SHELL_SOCKET": str(self.socket)}
        own |= {"SHELL_PARSES": "1"} if self.only_parses else {}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**environment(), **(variables or {}), **own},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        return done


@contextmanager
def open_shell(
    folder: Path, *, only_parses: bool = False, imported: Sequence[str] = IMPORTED
) -> Iterator[Shell]:
    """A shell whose commands are forked from a process that has imported those modules.

    Args:
        folder: an empty one for its files; sockets want short paths.
    """
    commands, path = folder / "bin", folder / "socket"
    commands.mkdir()
    names = [*(f"scomoe-{name}" for name in _OURS), *FAIRSEQ, *_PYTHON, *_LAUNCHERS]
    for name in [*names, "sbatch", "make", *FOREIGN] if only_parses else names:
        client = Path(__file__).with_name("client.py")
        (commands / name).write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -IS "{client}" {name} "$@"\n'
        )
        (commands / name).chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.shell.server", path, *imported],
        cwd=ROOT,
        env={**environment(), "TQDM_DISABLE": "1"},
        # Pipes, as what commands will have may be; nothing is written to these.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _SECONDS
        while not path.exists():
            assert server.poll() is None, server.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Shell(commands, path, only_parses)
    finally:
        with_children = os.getpgid(server.pid)
        os.killpg(with_children, 15)
        server.wait()
