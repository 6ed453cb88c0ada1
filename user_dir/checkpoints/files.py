"""Looking into fairseq's checkpoint files with torch's safe loader, without reading the weights."""

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from user_dir.errors import UserError
from user_dir.text.leftovers import name_in_utf8

logger = logging.getLogger(__name__)


def open_checkpoint(path: str | Path, *, flag: str) -> dict[str, Any]:
    """The content of a checkpoint; tensors are mapped, and read when they are used.

    Raises:
        UserError: the file is missing or no checkpoint of fairseq; the message names the flag.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{flag} ({path}): no such file; name a checkpoint, such as checkpoint_best.pt in the "
            "--save-dir of a training run"
        )
    try:
        with name_in_utf8(path) as name:
            state = torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is empty"
        raise UserError(
            f"{flag} ({path}): not a checkpoint that can be loaded safely ({reason})"
        ) from None
    if not isinstance(state, dict) or "model" not in state or not _has_options(state):
        raise UserError(
            f"{flag} ({path}): not a checkpoint of fairseq, which holds the model's tensors and "
            "its options; name a file that fairseq-train or scomoe-average wrote"
        )
    return state


def model_options(state: dict[str, Any]) -> dict[str, Any]:
    """The options of the model that a checkpoint holds."""
    options = state["cfg"]["model"] if state.get("cfg") is not None else state["args"]
    return dict(options) if isinstance(options, dict) else dict(vars(options))


def task_options(state: dict[str, Any]) -> dict[str, Any]:
    """The options of the task that a checkpoint was trained on."""
    options = state["cfg"]["task"] if state.get("cfg") is not None else state["args"]
    return dict(options) if isinstance(options, dict) else dict(vars(options))


def _has_options(state: dict[str, Any]) -> bool:
    return state.get("cfg") is not None or state.get("args") is not None


def mend_checkpoints(save_dir: str) -> None:
    """Replace a best or last checkpoint whose writing was cut off by the newest whole one.

    fairseq writes every new checkpoint under a temporary name first, but copies it to
    `checkpoint_best.pt` and `checkpoint_last.pt` in place. The newest whole file is then the
    one that was being copied, so nothing is lost.
    """
    folder = Path(save_dir)
    damaged = [
        path
        for path in (folder / "checkpoint_best.pt", folder / "checkpoint_last.pt")
        if path.is_file() and not zipfile.is_zipfile(path)
    ]
    if not damaged:
        return
    whole = [path for path in folder.glob("checkpoint*.pt") if zipfile.is_zipfile(path)]
    if not whole:
        raise UserError(f"{damaged[0]} is damaged and {folder} holds no whole checkpoint")
    newest = max(whole, key=lambda path: path.stat().st_mtime)
    for path in damaged:
        logger.warning("%s was cut off while it was written; restored from %s", path, newest)
        partial = path.with_name(f"{path.name}.mend{os.getpid()}")
        shutil.copyfile(newest, partial)
        os.replace(partial, path)
