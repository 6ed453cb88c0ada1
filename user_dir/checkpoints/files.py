"""Looking into fairseq's checkpoint files with torch's safe loader, without reading the weights."""

from pathlib import Path
from typing import Any

from user_dir.checkpoints.checksums import check_archive, is_archive, verify_checksums
from user_dir.checkpoints.options.check import check_options
from user_dir.checkpoints.sizes import check_sizes
from user_dir.checkpoints.structure import check_finite, check_structure
from user_dir.errors import UserError
from user_dir.text.leftovers import name_in_utf8


def open_checkpoint(
    path: str | Path, *, flag: str, trusted: bool = False, only_options: bool = False
) -> dict[str, Any]:
    """The checked content of a checkpoint; tensors are mapped, and read when they are used.

    Whoever calls it has imported `user_dir.register`: its options are checked by what is known.

    Args:
        trusted: whether its options may name what is not for translation (`check_options`).
        only_options: leave the weights unread, and so unchecked.

    Raises:
        UserError: the file is missing, no checkpoint of fairseq, or one that must not be used; the
            message names the flag and the file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{flag} ({path}): no such file; name a checkpoint, such as checkpoint_best.pt in the "
            "--save-dir of a training run"
        )
    try:
        if not only_options:
            verify_checksums(path)
        state = read_state(path)
        check_structure(state)
        check_options(state, trusted=trusted)
        check_sizes(state)
        if not only_options:
            check_finite(state["model"])
    except UserError as error:
        raise UserError(f"{flag} ({path}): {error}") from None
    return state


def read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, unchecked but for what holds it together.

    Raises:
        UserError: it cannot be loaded safely, or is no checkpoint of fairseq.
    """
    # Here, not at the top: --help and mistakes in the options need no torch.
    import torch

    try:
        is_zip = is_archive(path)
        if is_zip:
            check_archive(path)
        with name_in_utf8(path) as name:
            state = torch.load(name, map_location="cpu", weights_only=True, mmap=is_zip)
    except (OSError, UserError):
        raise
    except Exception as error:  # whatever damaged bytes make torch and its unpickler stumble over
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is empty"
        if isinstance(error, LookupError | TypeError):  # which says something of torch's code only
            reason = "its bytes are not those of one"
        raise UserError(f"not a checkpoint that can be loaded safely ({reason})") from None
    if not isinstance(state, dict) or "model" not in state or not _has_options(state):
        raise UserError(
            "not a checkpoint of fairseq, which holds the model's tensors and its options; name a "
            "file that fairseq-train or scomoe-average wrote"
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
