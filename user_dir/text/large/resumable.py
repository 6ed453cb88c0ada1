"""Work of hours in stages: a finished stage is skipped by a later run, a broken one is redone."""

import errno
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from user_dir.errors import UserError
from user_dir.text.large.worker_pool import map_as_done
from user_dir.text.whole_output import write_whole

Facts = dict[str, Any]

# A setting that is longer is compared by its hash: of a thousand pairs it tells of all in each.
_MOST_CHARACTERS = 1000
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Stage:
    """One step: `work` fills `outputs`, files or folders that are this stage's alone.

    `settings` is all that the outputs depend on, `work` returns facts for later stages; both
    can be written as JSON. `uses` are files of other stages that must be whole as well for
    this one to count as finished.
    """

    name: str
    settings: dict[str, Any]
    outputs: Sequence[Path]
    work: Callable[[], Facts]
    uses: Sequence[Path] = field(default=())


class StageLog:
    """Runs stages and keeps a marker of each finished one in the folder `work/stages` of `out`."""

    def __init__(self, out: Path, *, overwrite: bool, tell: Callable[[str], None]) -> None:
        self.out, self.overwrite, self.tell = out, overwrite, tell
        self.markers = out / "work" / "stages"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it.

        A folder in which no stage was finished goes again with an error.

        Raises `UserError` if one is at work there, or if `out` holds something else.
        """
        _refuse_foreign_folder(self.out)
        self.markers.mkdir(parents=True, exist_ok=True)
        with (self.out / "work" / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--out ({self.out}): another run is preparing a corpus there; wait for it"
                ) from None
            except OSError:
                pass  # some shared file systems know no locks
            try:
                yield
            except BaseException:
                self._remove_if_nothing_was_done()
                raise

    def _remove_if_nothing_was_done(self) -> None:
        if not any(self.markers.iterdir()):
            shutil.rmtree(self.markers.parent)
            with suppress(OSError):  # other files are the user's
                self.out.rmdir()

    def facts(self, stage: Stage) -> Facts | None:
        """What a finished stage returned; None if it must run.

        Raises `UserError` if it was finished with other settings and `overwrite` is off.
        """
        try:
            marker = json.loads(self._marker(stage).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        settings, before = _brief(stage.settings), _brief(marker["settings"])
        changed = sorted(
            name for name in before | settings if before.get(name) != settings.get(name)
        )
        if changed:
            self.refuse(f"other settings ({', '.join(changed)}; stage {stage.name})")
        whole = all(_size(self.out / name) == size for name, size in marker["files"].items())
        return marker["facts"] if whole and not changed else None

    def run(self, stage: Stage) -> Facts:
        """Run a stage, unless it is finished, and say so."""
        if (known := self.facts(stage)) is not None:
            self.tell(f"{stage.name}: done already")
            return known
        start = time.monotonic()
        self.tell(f"{stage.name} …")
        facts = self._work(stage)
        self._report(stage.name, [stage], time.monotonic() - start)
        return facts

    def forget(self, stage: Stage) -> None:
        """Have a stage run again."""
        self._marker(stage).unlink(missing_ok=True)

    def refuse(self, what: str) -> None:
        """Raise `UserError`, saying what differs from an earlier run, unless `overwrite`."""
        if not self.overwrite:
            raise UserError(
                f"--out ({self.out}) was prepared with {what}; name another folder, or add "
                "--overwrite to redo what depends on it"
            )

    def run_all(self, title: str, stages: Sequence[Stage], *, workers: int) -> list[Facts]:
        """Run stages that do not depend on each other side by side; facts in their order."""
        facts = [self.facts(stage) for stage in stages]
        waiting = [number for number, known in enumerate(facts) if known is None]
        if len(waiting) < len(stages):
            self.tell(f"{title}: {len(stages) - len(waiting)} of {len(stages)} done already")
        start = time.monotonic()
        worker = _Worker(self, stages)
        done = len(stages) - len(waiting)
        for number, result in map_as_done(worker, waiting, workers=workers):
            facts[number] = result
            done += 1
            self.tell(f"  {stages[number].name} [{done} of {len(stages)}]")
        if waiting:
            ran = [stages[number] for number in waiting]
            self._report(title, ran, time.monotonic() - start)
        return [one for one in facts if one is not None]

    def _work(self, stage: Stage) -> Facts:
        self.forget(stage)
        _remove(stage.outputs)
        try:
            for path in stage.outputs:
                path.parent.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            facts = stage.work()
            self._mark(stage, facts, time.monotonic() - start)
        except BaseException as error:
            _remove(stage.outputs)
            if isinstance(error, OSError) and self._is_full(error):
                raise UserError(
                    f"{stage.name}: no room left for {self.out} ({error.strerror or error}); "
                    "finished stages are kept, and the same command goes on there once there is "
                    "more room"
                ) from None
            raise
        return facts

    def _mark(self, stage: Stage, facts: Facts, seconds: float) -> None:
        files = {
            str(path.relative_to(self.out)): path.stat().st_size
            for path in _files([*stage.outputs, *stage.uses])
        }
        marker = {
            "settings": _brief(stage.settings),
            "files": files,
            "facts": facts,
            "seconds": round(seconds, 1),
        }
        write_whole(self._marker(stage), json.dumps(marker, indent=1), flag="--out")

    def _marker(self, stage: Stage) -> Path:
        return self.markers / f"{stage.name.replace(' ', '.')}.json"

    def _is_full(self, error: OSError) -> bool:
        # Some libraries report a full disk without its number.
        return error.errno in _NO_ROOM or shutil.disk_usage(self.out).free < 1 << 16

    def _report(self, title: str, stages: Sequence[Stage], seconds: float) -> None:
        written = sum(
            path.stat().st_size for stage in stages for path in _files(list(stage.outputs))
        )
        free = shutil.disk_usage(self.out).free
        self.tell(
            f"{title}: {_duration(seconds)}, {format_size(written)} written, "
            f"{format_size(free)} free"
        )


def _brief(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a marker holds them, whether they come from one or not."""
    texts = {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}
    return {
        name: json.loads(text)
        if len(text) <= _MOST_CHARACTERS
        else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
        for name, text in texts.items()
    }


@dataclass(frozen=True)
class _Worker:
    """Runs one of the stages, in another process."""

    log: StageLog
    stages: Sequence[Stage]

    def __call__(self, number: int) -> Facts:
        return self.log._work(self.stages[number])


def format_size(size: float) -> str:
    """A number of bytes for people, such as 3.4 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:  # which is written as 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _refuse_foreign_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out ({out}) is a file; name a folder")
    if out.exists() and any(out.iterdir()) and not (out / "work" / "stages").is_dir():
        raise UserError(
            f"--out ({out}) exists and was not begun by this command; name another folder"
        )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
        if path.is_file():
            yield path


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
