"""One consolidated checkpoint file, from and to any number of processes."""

import logging
import sys
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from user_dir.fast_moe.experts.sharding import ShardedExperts, gather_experts, own_share
from user_dir.fast_moe.layout.topology import Topology

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """The model of this process, for its optimizer: fairseq hands that nothing but parameters."""

    model: "weakref.ref[nn.Module]"
    topology: Topology


_trained: TrainedModel | None = None


def declare_trained(model, topology: Topology) -> None:
    """Note the model that the optimizer built next belongs to."""
    global _trained
    model._ddp_params_and_buffers_to_ignore = [  # read by torch's DDP
        name for name, parameter in model.named_parameters() if hasattr(parameter, "expert")
    ]
    _trained = TrainedModel(weakref.ref(model), topology)


def declare_dense() -> None:
    """Note that the model that the optimizer built next belongs to has no MoE layer."""
    global _trained
    _trained = None


def trained_model() -> TrainedModel | None:
    """The model that was built last, None where it has no MoE layer."""
    return _trained


def gather_model() -> None:
    """Collect all experts of the trained model on process 0. A collective.

    Raises:
        RuntimeError: while an exception is handled, as when fairseq wants to save `crash.pt`:
            the other processes are not gathering and would be waited for without end.
    """
    if _trained is None or _trained.topology.num_processes == 1:
        return
    if sys.exc_info()[0] is not None:
        raise RuntimeError(
            f"process {_trained.topology.process_index} failed; no crash.pt is written, since "
            "the experts of the other processes cannot be gathered. The last checkpoint stands; "
            "run the same command to resume from it"
        )
    model = _trained.model()
    assert model is not None
    for module in model.modules():
        if isinstance(module, ShardedExperts):
            module.gather()


def gather_optimizer_state(param_groups: list, state: dict) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state of all experts by parameter index, on process 0. A collective."""
    gathered: dict[int, dict[str, Tensor]] = {}
    for index, parameter in _expert_parameters(param_groups):
        of_parameter: dict[str, Tensor] = {}
        for name, value in sorted(state.get(parameter, {}).items()):
            if _is_sharded(value, parameter):
                value = gather_experts(value, _topology())
            of_parameter[name] = value
        gathered[index] = of_parameter
    return gathered


def own_optimizer_state(param_groups: list, state: dict[int, dict]) -> dict[int, dict]:
    """A loaded optimizer state with every expert's share of this process."""
    own = dict(state)
    for index, parameter in _expert_parameters(param_groups):
        own[index] = {
            name: own_share(value, _topology())
            if torch.is_tensor(value) and value.dim() == parameter.dim()
            else value
            for name, value in state.get(index, {}).items()
        }
    return own


def _expert_parameters(param_groups: list) -> list[tuple[int, nn.Parameter]]:
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    return [(i, p) for i, p in enumerate(parameters) if hasattr(p, "expert")]


def _is_sharded(value: object, parameter: nn.Parameter) -> bool:
    return torch.is_tensor(value) and value.shape == parameter.shape


def _topology() -> Topology:
    assert _trained is not None, "only a model with MoE layers has expert parameters"
    return _trained.topology
