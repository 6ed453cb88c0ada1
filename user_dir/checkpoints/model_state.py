"""What fairseq makes of a checkpoint, with tensors that stay in the file until they are used.

fairseq itself reads all of them into the memory of every process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_dir.checkpoints.files import read_state


def fairseq_state(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A checked checkpoint as `fairseq.checkpoint_utils.load_checkpoint_to_cpu` returns it.

    Its tensors are mapped: whoever keeps one copies it, since the file may be written anew.

    Args:
        overrides: options to change.

    Raises:
        UserError: it cannot be loaded.
    """
    from fairseq.checkpoint_utils import _upgrade_state_dict
    from fairseq.dataclass.utils import overwrite_args_by_name
    from omegaconf import OmegaConf

    state = read_state(Path(path))
    if state.get("args") is not None:
        vars(state["args"]).update(overrides or {})
    if state.get("cfg") is not None:
        state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        overwrite_args_by_name(state["cfg"], dict(overrides or {}))
    return _upgrade_state_dict(state)
