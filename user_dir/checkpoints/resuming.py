"""Which file training starts from, as fairseq decides it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.checkpoints.files import open_checkpoint
from user_dir.errors import UserError

# fairseq's default, which means the last checkpoint of --save-dir, if there is one.
LAST = "checkpoint_last.pt"


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from, and the option that names it."""

    path: Path
    flag: str
    # Not so the last checkpoint of a run, which need not exist.
    is_named: bool = True


def start_of_training(options: Mapping[str, Any]) -> Start | None:
    """The checkpoint that options of fairseq-train lead to; None if they are of no training."""
    restore_file, save_dir = options.get("restore_file"), options.get("save_dir")
    if not restore_file or not save_dir:
        return None
    if restore_file != LAST:
        return Start(Path(restore_file), "--restore-file")
    last = Path(save_dir, LAST)
    if not last.exists():
        for name in "continue_once", "finetune_from_model":
            if options.get(name):
                return Start(Path(options[name]), f"--{name.replace('_', '-')}")
    return Start(last, "--save-dir", is_named=False)


def check_start(options: Mapping[str, Any], *, trusted: bool = False) -> None:
    """Check the checkpoint that training starts from, if any.

    Args:
        trusted: as for `open_checkpoint`.

    Raises:
        UserError: it is named and is not there, so that fairseq would train from scratch; or it
            must not be loaded.
    """
    start = start_of_training(options)
    if start is None:
        return
    if start.path.is_file():
        open_checkpoint(start.path, flag=start.flag, trusted=trusted)
    elif start.is_named:
        beside = Path(options["save_dir"], start.path.name)
        cure = f"; {beside} is one" if beside.is_file() else ""
        raise UserError(
            f"{start.flag} ({start.path}): no such file{cure}; leave the option out to resume from "
            f"{LAST} in --save-dir, or to train from scratch where there is none"
        )
