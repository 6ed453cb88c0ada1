"""State that layers learn without a gradient: running means over the tokens of all ranks.

A forward pass in training leaves sums behind; once an update they are added up over its
micro-batches and all processes, and the state moves. Neither evaluation nor recomputation moves it,
and it is the same on any number of processes and in every checkpoint.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from user_dir.fast_moe.layout.processes import running_processes

RUNNING = "running_"


class RunningState(nn.Module):
    """A module whose buffers, with names that begin with `RUNNING`, are running means.

    They keep their type when a model is turned into half precision.
    """

    num_sums: int  # that a forward pass leaves behind

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, Tensor] = {}

    def leave(self, sums: Tensor, micro_batch: int | None) -> None:
        """Keep what a forward pass in training counted, (num_sums,).

        Args:
            micro_batch: of the update; computed again, it leaves the same again. None: the pass
                belongs to no update.
        """
        if micro_batch is not None:
            self._pending[micro_batch] = sums.detach().double()

    def take_sums(self, device: torch.device) -> Tensor:
        """What was left behind since the last call, added up; float64."""
        pending, self._pending = self._pending, {}
        if not pending:
            return torch.zeros(self.num_sums, dtype=torch.float64, device=device)
        return torch.stack([pending[index] for index in sorted(pending)]).sum(0)

    def move(self, sums: Tensor) -> None:
        """Move the state by an update's sums over all ranks; without any token they are 0."""
        raise NotImplementedError

    def _apply(self, fn: Callable, recurse: bool = True):
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self


def move_running_states(model: nn.Module, device: torch.device) -> None:
    """Move every running state of a model by one update. A collective if there is any."""
    states = list(_states(model))
    if not states:
        return
    sums = torch.cat([state.take_sums(device) for state in states])
    if running_processes()[1] > 1:
        dist.all_reduce(sums)
    # What a pass with an overflow counted says nothing.
    sums = torch.where(sums.isfinite(), sums, 0)
    sizes = [state.num_sums for state in states]
    for state, part in zip(states, sums.split(sizes), strict=True):
        state.move(part)


def fit_running_state(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors with the running state that this model has, and no other.

    Older checkpoints have none, and one of SCoMoE-Seq can be loaded into a plain mixture.
    """
    own = {name: buffer for name, buffer in model.named_buffers() if _is_running(name)}
    found = {
        name: tensor for name, tensor in state_dict.items() if name in own or not _is_running(name)
    }
    return {**own, **found}


def _is_running(name: str) -> bool:
    return name.rpartition(".")[2].startswith(RUNNING)


def _states(model: nn.Module) -> Iterable[RunningState]:
    return (module for module in model.modules() if isinstance(module, RunningState))


def move_mean(value: Tensor, weight: Tensor, new: Tensor, *, is_new: Tensor, decay: float) -> None:
    """Move running means in place, each where something is new; the first value counts fully.

    Args:
        weight: what the samples so far weigh, from 0 to 1; of the shape of the others.
    """
    moved = torch.where(is_new, decay * weight + (1 - decay), weight)
    step = torch.where(is_new, (1 - decay) / moved.clamp(min=1 - decay), 0)
    value += step * torch.where(is_new, new - value, 0)
    weight.copy_(moved)
