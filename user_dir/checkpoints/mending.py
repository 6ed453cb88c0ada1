"""What training does about a damaged checkpoint before it starts."""

import logging
import os
import shutil
from pathlib import Path

from user_dir.checkpoints.checksums import verify_checksums
from user_dir.checkpoints.files import read_state
from user_dir.checkpoints.resuming import LAST
from user_dir.errors import UserError

logger = logging.getLogger(__name__)

BEST = "checkpoint_best.pt"


def mend_checkpoints(save_dir: str) -> None:
    """Replace a best or last checkpoint that is damaged by the newest whole one.

    fairseq writes every new checkpoint under a temporary name first, but copies it to
    `checkpoint_best.pt` and `checkpoint_last.pt` in place. The newest whole file is then the
    one that was being copied, so nothing is lost. The damaged file is kept beside it.

    Raises:
        UserError: a file is damaged and there is no whole one.
    """
    folder = Path(save_dir)
    copies = folder / BEST, folder / LAST
    damaged = [path for path in copies if path.is_file() and not is_whole(path)]
    if not damaged:
        return
    newest_first = sorted(
        folder.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    newest = next((path for path in newest_first if path not in damaged and is_whole(path)), None)
    if newest is None:
        raise UserError(
            f"{damaged[0]} is damaged and {folder} holds no whole checkpoint; --restore-file names "
            "one elsewhere, another --save-dir starts anew"
        )
    for path in damaged:
        partial = path.with_name(f"{path.name}.mend{os.getpid()}")
        shutil.copyfile(newest, partial)
        aside = _free_name(path)
        os.rename(path, aside)
        os.replace(partial, path)
        logger.warning("%s was damaged: kept as %s, and restored from %s", path, aside, newest)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be loaded and nothing in it changed. Reads all of it."""
    try:
        read_state(path)
        verify_checksums(path)
    except UserError:
        return False
    return True


def _free_name(path: Path) -> Path:
    """NAME.damaged, or NAME.damaged2 … where an earlier one is kept already."""
    aside, number = path.with_name(f"{path.name}.damaged"), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.damaged{number}"), number + 1
    return aside
