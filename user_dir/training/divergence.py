"""Where numbers first stopped being finite."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def find_divergence(model: nn.Module, step: Callable[[], None]) -> str | None:
    """Repeat a step and name the first place that was not finite; None if all was finite there.

    A parameter, the output of a module in the forward pass, or else the gradient of a module's
    output in the backward pass. Minus infinity is a mask's usual value, and passes. The step is
    taken in any case: other processes may exchange with this one in theirs.
    """
    off = (name for name, parameter in model.named_parameters() if _is_off(parameter.data))
    found = [f"the parameter {name}" for name in off]
    handles = [
        module.register_forward_hook(_watcher(name, found))
        for name, module in model.named_modules()
        if name
    ]
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _watcher(name: str, found: list[str]):
    def watch(_module, _inputs, output) -> None:
        for tensor in _tensors(output):
            if found:
                return
            if _is_off(tensor.detach()):
                found.append(f"the output of {name}")
            elif tensor.requires_grad:
                tensor.register_hook(watch_gradient)

    def watch_gradient(gradient: Tensor) -> None:
        if not found and _is_off(gradient):
            found.append(f"the gradient of the output of {name}")

    return watch


def _is_off(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    return bool((tensor.isnan() | tensor.isposinf()).any())


def _tensors(value: object) -> Iterator[Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
