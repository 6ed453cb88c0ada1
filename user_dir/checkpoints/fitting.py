"""Says how the tensors of a checkpoint differ from those of the model that is to load them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from user_dir.checkpoints.files import read_state
from user_dir.checkpoints.gathering import expert_parameters
from user_dir.checkpoints.resuming import start_of_training
from user_dir.errors import MisfitError, UserError


def check_saved_experts(state_dict: Mapping[str, Tensor], model: nn.Module, *, wanted: int) -> None:
    """Refuse a checkpoint of another number of experts, of which a share could still be loaded."""
    for name in expert_parameters(model).keys() & state_dict.keys():
        tensor = state_dict[name]
        found = tensor.shape[0] if tensor.dim() else 0
        if found != wanted:
            raise UserError(
                f"the checkpoint has {found} experts a layer, the model {wanted}; "
                f"--moe-expert-count {found} would do"
            )


class _Checking(Protocol):
    def check_fits(self, state_dict: Mapping[str, Tensor]) -> None: ...


def check_start_fits(model: _Checking, options: Mapping[str, Any]) -> None:
    """Refuse the checkpoint that training starts from if it does not fit the model, a mixture.

    Said when fairseq has loaded it, the reason would be lost in fairseq's own words.

    Raises:
        MisfitError: the message names the file, and the option that makes it fit.
    """
    start = start_of_training(options)
    if start is None or not start.path.is_file():
        return
    weights = read_state(start.path)["model"]
    if start.is_named and not any(name.endswith("weight1_LDH") for name in weights):
        raise MisfitError(
            f"{start.flag} ({start.path}) is of a model without experts; `scomoe-upcycle "
            f"{start.path} --out moe.pt`, with this model's --moe-freq and --moe-expert-count, "
            "makes one with experts of it for --finetune-from-model moe.pt"
        )
    try:
        model.check_fits(weights)
    except UserError as error:
        raise MisfitError(f"{start.flag} ({start.path}) does not fit the model: {error}") from None


def fits(state_dict: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether a checkpoint has the tensors of the model, and no others."""
    wanted = {n: p.shape for n, p in model.named_parameters(remove_duplicate=False)}
    found = {name: tensor.shape for name, tensor in state_dict.items()}
    buffers = {name for name, _ in model.named_buffers()}
    return wanted.items() <= found.items() and found.keys() - buffers == wanted.keys()


def describe_misfit(state_dict: Mapping[str, Tensor], model: nn.Module) -> str:
    """A sentence on how a checkpoint differs from the model, and on the option that makes it fit.

    Args:
        state_dict: as it is loaded; with several processes the experts of this one.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in parameters}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    for side in ("encoder", "decoder"):
        there, here = (_num_layers(names, side) for names in (found, wanted))
        if there != here:
            return (
                f"the checkpoint has {there} layers in its {side}, the model {here}; "
                f"--{side}-layers {there} would do"
            )
    for name, shape in wanted.items():
        if name in found and found[name] != shape:
            return (
                f"{name} is {_by(found[name])} in the checkpoint, {_by(shape)} in the model; "
                + _cure(name, found[name], shape)
            )
    buffers = {name for name, _ in model.named_buffers()}
    missing, spare = wanted.keys() - found.keys(), found.keys() - wanted.keys() - buffers
    if any(name.endswith(".gate.weight") for name in spare) and not missing:
        return "the checkpoint's clusters go by learned scores; --cluster-by scores would do"
    if missing:
        difference = f"the checkpoint has no {min(missing)}, which the model has"
    else:
        difference = f"the checkpoint has {min(spare, default='more')}, which the model has not"
    return (
        f"{difference}; give the --arch and the options of --moe-freq, --scomoe-type and "
        "--token-cluster that it was trained with"
    )


def _num_layers(names: Iterable[str], side: str) -> int:
    found = (re.match(rf"{side}\.layers\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _cure(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    side = name.partition(".")[0]
    if name.endswith("embed_tokens.weight") and found[-1:] != wanted[-1:]:
        return f"--{side}-embed-dim {found[-1]} would do"
    if name.endswith("embed_tokens.weight"):
        return "it was trained with other dictionaries"
    if name.endswith(("fc1.weight", "fc1.bias")):
        return f"--{side}-ffn-embed-dim {found[0]} would do"
    if name.endswith("weight1_LDH") and found[1:2] != wanted[1:2]:
        return "give the --scomoe-type and the --moe-exchange-dim that it was trained with"
    if name.endswith(("weight1_LDH", "bias1_LH")) and len(found) == len(wanted):
        return f"--moe-expert-ffn-dim {found[-1]} would do"
    return "give the --arch and the widths that it was trained with"
