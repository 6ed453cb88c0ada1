"""What fairseq-hydra-train was told about checkpoints: its options are in files and overrides."""

from collections.abc import Mapping, Sequence
from typing import Any

from user_dir.checkpoints.resuming import LAST

# fairseq's defaults, for a process that it has started and that has the overrides alone.
_DEFAULTS = {"restore_file": LAST, "save_dir": "checkpoints"}
_NAMES = ("fairseq-hydra-train", "hydra_train.py")
_GROUP = "checkpoint."


def checkpoint_options(arguments: Sequence[str]) -> Mapping[str, Any] | None:
    """The group `checkpoint` of its options; None if the process is not fairseq-hydra-train's.

    Args:
        arguments: of the process, its own name included.
    """
    name = arguments[0].rpartition("/")[2] if arguments else ""
    if name not in _NAMES:
        return None
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        known = HydraConfig.get()
        cfg = compose(known.job.config_name, list(known.overrides.task))
        return dict(cfg.checkpoint)
    given = (argument.lstrip("+").partition("=") for argument in arguments[1:])
    named = {key: value for key, _, value in given if key.startswith(_GROUP)}
    return _DEFAULTS | {key.removeprefix(_GROUP): value for key, value in named.items()}
