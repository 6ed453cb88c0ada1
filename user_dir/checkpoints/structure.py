"""Whether a checkpoint holds what fairseq takes out of it, each of the type that it must be."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from user_dir.checkpoints.options.check import option_groups
from user_dir.errors import UserError

if TYPE_CHECKING:  # --help and mistakes in the options need no torch
    from torch import Tensor

LAYOUT_KEY = "moe_layout"
FEATURE_SHARES_KEY = "moe_feature_shares"
# What our buffers hold: so many numbers, from the smallest that makes sense.
_OUR_BUFFERS = {LAYOUT_KEY: (2, 1), FEATURE_SHARES_KEY: (4, 0)}
_LARGEST = 2**31


def check_structure(state: Mapping[str, Any]) -> None:
    """Refuse what no training run can have written. Reads no weights.

    Raises:
        UserError: a part is missing or of another type; the message names it.
    """
    groups = option_groups(state)
    if "args" not in groups:
        for name in "model", "task":
            if name not in groups:
                raise UserError(f"its cfg has no options of the {name}")
    _check_weights(state.get("model"))
    _check_history(state)
    for name in "extra_state", "last_optimizer_state", "task_state", "criterion":
        _check(name, state.get(name), _is_table, "a dictionary")
    extra_state = state.get("extra_state") or {}
    _check("extra_state train_iterator", extra_state.get("train_iterator"), _is_table, "one too")
    for name in "epoch", "iterations_in_epoch":
        number = (extra_state.get("train_iterator") or {}).get(name)
        _check(f"train_iterator {name}", number, _is_count, "a count")
    for name in "best", "val_loss", "previous_training_time":
        _check(f"extra_state {name}", extra_state.get(name), _is_number, "a number")


def check_finite(model: Mapping[str, "Tensor"]) -> None:
    """Refuse weights that are not finite. Reads all of them.

    Raises:
        UserError: the message names the tensor.
    """
    for name, tensor in model.items():
        if not _is_finite(tensor):
            raise UserError(
                f"its {name} holds values that are not finite, as when training has diverged; take "
                "an earlier checkpoint"
            )


def _is_finite(tensor: "Tensor") -> bool:
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))


def _check(name: str, value: Any, is_right: Callable[[Any], bool], wanted: str) -> None:
    if value is not None and not is_right(value):
        raise UserError(f"its {name} is of type {type(value).__name__}, where it must be {wanted}")


def _check_weights(model: Any) -> None:
    import torch

    if not _is_table(model) or not model:
        raise UserError("its model holds no weights: it must be a dictionary of tensors")
    for name, tensor in model.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(f"its {name[:80]!a} is no tensor with values")
        # A few bytes can be repeated to any shape.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"its {name[:80]!a} is larger than what the file holds of it")
    for name, (count, least) in _OUR_BUFFERS.items():
        if name in model and not _holds_counts(model[name], count, least):
            raise UserError(f"its {name} must hold {count} whole numbers of at least {least}")
    if FEATURE_SHARES_KEY in model and not model[FEATURE_SHARES_KEY][1::2].all():
        raise UserError(f"its {FEATURE_SHARES_KEY} holds fractions of 0")


def _holds_counts(tensor: "Tensor", count: int, least: int) -> bool:
    if tensor.shape != (count,) or tensor.is_floating_point() or tensor.is_complex():
        return False
    return all(least <= number < _LARGEST for number in tensor.tolist())


def _check_history(state: Mapping[str, Any]) -> None:
    """fairseq looks at the last entry; files older than that have what it makes one from."""
    history = state.get("optimizer_history")
    if "optimizer_history" not in state:
        if not {"best_loss", "optimizer"} <= state.keys():
            raise UserError("it has no optimizer_history, as every checkpoint of fairseq has")
        return
    if not isinstance(history, list) or not history or not all(map(_is_table, history)):
        raise UserError("its optimizer_history must be a list of dictionaries")
    last = history[-1]
    for name in "criterion_name", "optimizer_name":
        _check(f"optimizer_history {name}", last.get(name), _is_string, "a string")
    _check("optimizer_history num_updates", last.get("num_updates"), _is_count, "a count")
    _check("lr_scheduler_state", last.get("lr_scheduler_state"), _is_table, "a dictionary")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or type(value).__module__ in ("numpy", "torch")
