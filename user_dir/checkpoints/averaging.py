"""The mean of the weights of several checkpoints."""

from typing import Any

import torch
from torch import Tensor

from user_dir.errors import UserError

# What a model that is loaded needs. Optimizer states must not be mixed, so they stay behind.
_KEPT = ("args", "cfg", "criterion", "optimizer_history", "task_state")


def average_models(models: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating tensor over the models, by the files they are from.

    Sums are in float32 (float64 for float64) and the result has the tensors' own type. Other
    tensors must be equal. Tensors that share memory in every model share it in the result.

    Raises:
        UserError: the models differ in more than values; the message names file and key.
    """
    _check_same_tensors(models)
    averaged: dict[str, Tensor] = {}
    known: dict[tuple, Tensor] = {}
    for key in next(iter(models.values())):
        tensors = {path: model[key] for path, model in models.items()}
        place = tuple(_place(tensor) for tensor in tensors.values())
        if place not in known:
            known[place] = _mean(key, tensors)
        averaged[key] = known[place]
    return averaged


def _check_same_tensors(models: dict[str, dict[str, Tensor]]) -> None:
    (first_path, first), *others = models.items()
    for path, model in others:
        for key in sorted(first.keys() ^ model.keys()):
            there, missing = (first_path, path) if key in first else (path, first_path)
            raise UserError(
                f'{missing} has no "{key}", but {there} has; only checkpoints of one model can be '
                "averaged"
            )
        for key, tensor in first.items():
            theirs = model[key]
            if (theirs.shape, theirs.dtype) != (tensor.shape, tensor.dtype):
                raise UserError(
                    f'{path}: "{key}" is {_describe(theirs)}, but {_describe(tensor)} in '
                    f"{first_path}; only checkpoints of one model can be averaged"
                )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _place(tensor: Tensor) -> tuple:
    storage = tensor.untyped_storage().data_ptr()
    # Where the memory is, and, for tensors that have none, which tensor it is.
    identity = storage if tensor.numel() else id(tensor)
    return identity, tensor.storage_offset(), tensor.shape, tensor.stride()


def _mean(key: str, tensors: dict[str, Tensor]) -> Tensor:
    (first_path, first), *others = tensors.items()
    if not first.is_floating_point():
        for path, tensor in others:
            if not torch.equal(tensor, first):
                raise UserError(
                    f'{path}: "{key}" is {tensor.tolist()}, but {first.tolist()} in {first_path}; '
                    "only checkpoints of one model can be averaged"
                )
        return first.clone()
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
    for _, tensor in others:
        total += tensor
    return (total / len(tensors)).to(first.dtype)


def averaged_checkpoint(newest: dict[str, Any], model: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint with these weights, of the run of another, to translate or start from."""
    kept = {key: newest[key] for key in _KEPT if key in newest}
    iterator = newest.get("extra_state", {}).get("train_iterator")
    extra_state = {} if iterator is None else {"train_iterator": iterator}
    return {**kept, "model": model, "extra_state": extra_state, "last_optimizer_state": None}
