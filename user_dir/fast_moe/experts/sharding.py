"""Parameters of which every process holds the experts it hosts, and how they gather and load.

The first dimension of such a tensor is the expert.
"""

import math
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from user_dir.fast_moe.layout.topology import Topology


def expert_parameter(value: Tensor) -> nn.Parameter:
    """A parameter of which every process holds its own rows.

    fairseq's data parallelism leaves parameters alone that have an attribute ``expert``.
    """
    parameter = nn.Parameter(value)
    parameter.expert = True  # type: ignore[attr-defined]
    return parameter


def gather_experts(local: Tensor, topology: Topology) -> Tensor | None:
    """The tensor of all experts on process 0, on the CPU; None elsewhere. A collective.

    Args:
        local: (experts held here, …), any dtype.
    """
    held = [topology.held_experts(p) for p in range(topology.num_processes)]
    if topology.num_processes == 1:
        return local.detach().cpu().clone()
    if topology.process_index != 0:
        dist.gather(local.detach().contiguous(), dst=0)
        return None
    parts = [torch.empty_like(local) for _ in held]
    dist.gather(local.detach().contiguous(), parts, dst=0)
    full = torch.empty(topology.num_experts, *local.shape[1:], dtype=local.dtype)
    for experts, part in zip(held, parts, strict=True):
        full[experts] = part.cpu()
    return full


def own_share(full: Tensor, topology: Topology) -> Tensor:
    """The rows of a tensor of all experts that this process holds; a view if they lie together."""
    held = topology.held_experts(topology.process_index)
    first, end = held[0], held[-1] + 1
    return full[first:end] if end - first == len(held) else full[held]


def sum_over_replicas(parameters: list[nn.Parameter], topology: Topology) -> None:
    """Add up the gradients of experts that several processes hold. A collective."""
    if topology.num_processes_per_expert == 1:
        return
    mine = topology.held_experts(topology.process_index)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        full = parameter.grad.new_zeros(topology.num_experts, *parameter.shape[1:])
        full[mine] = parameter.grad
        dist.all_reduce(full)
        parameter.grad.copy_(full[mine])


def scale_expert_gradients(model: nn.Module, topology: Topology, *, rule: str) -> None:
    """Bring experts' gradients to the scale of shared ones, whatever the number of processes.

    Shared gradients are averaged over the processes; an expert's is already the sum over all
    ranks' tokens. ``rule``: "world_size" (the exact gradient) or "sqrt_world_size" (that times
    the square root of min(ranks, experts)).
    """
    factor = 1 / topology.num_processes
    if rule == "sqrt_world_size":
        factor *= math.sqrt(topology.block_size)
    if factor == 1:
        return
    for parameter in model.parameters():
        if hasattr(parameter, "expert"):
            parameter.register_hook(partial(torch.mul, factor))
