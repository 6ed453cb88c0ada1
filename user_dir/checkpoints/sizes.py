"""Whether a model can have the sizes that its options ask for, by the tensors in the file.

Of sizes that no tensor has, a model would be built before anything is compared: for hours, or with
more memory than there is.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from user_dir.checkpoints.options.check import option_groups
from user_dir.checkpoints.options.declared import EVALUATED
from user_dir.checkpoints.options.literals import read_literal
from user_dir.errors import UserError

if TYPE_CHECKING:  # --help and mistakes in the options need no torch
    from torch import Tensor

# Options that nothing of the model was built from may be larger than its tensors.
_ALWAYS_SMALL = 4096
# Positions need no tensor: a table of them is computed, of the model's width.
_MOST_POSITIONS = 2**20
_OF_THE_MODEL = ("encoder_", "decoder_", "moe_")
_WIDTHS = ("_dim", "_heads", "_count", "_channels", "_size", "_nodes", "_per_node", "_groups")


def check_sizes(state: Mapping[str, Any]) -> None:
    """Refuse options of the model that are out of all proportion to its tensors.

    Raises:
        UserError: the message names the option.
    """
    groups = option_groups(state)
    weights: Mapping[str, Tensor] = state["model"]
    longest = max((size for tensor in weights.values() for size in tensor.shape), default=0)
    for name, value in {**groups.get("args", {}), **groups.get("model", {})}.items():
        most = _most(name, value, longest=longest, num_tensors=len(weights))
        if most is None:
            continue
        if isinstance(value, str) and name in EVALUATED:
            value = read_literal(value)
        if isinstance(value, (list, tuple)) and len(value) > len(weights):
            raise UserError(f"its option {name} lists more than its {len(weights)} tensors")
        for size in _numbers(value):
            if abs(size) > most:
                raise UserError(
                    f"its option {name} is {size}, which is out of proportion to its tensors: "
                    f"there are {len(weights)}, and none is longer than {longest}"
                )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)):
        yield value


def _most(name: str, value: Any, *, longest: int, num_tensors: int) -> int | None:
    if name.endswith("_layers") and isinstance(value, int):
        return num_tensors
    if name.endswith("_positions"):
        return _MOST_POSITIONS
    if name in EVALUATED or (name.startswith(_OF_THE_MODEL) and name.endswith(_WIDTHS)):
        return max(longest, _ALWAYS_SMALL)
    return None
