"""The experts of a model in its one checkpoint file, from and to any number of processes."""

import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from user_dir.fast_moe.experts.sharding import gather_experts, own_share
from user_dir.fast_moe.layout.topology import Topology


class SpreadExperts:
    """The experts of a model and their optimizer state, spread over several processes.

    The one place that gathers them for a checkpoint, and takes this process's share of one. The
    model owns it. Its optimizer is handed nothing but parameters, and in mixed precision only
    float32 copies of them, on which fairseq keeps two attributes: ``expert``, as a plain True, and
    ``param_group``, as it is: the latter leads here.
    """

    def __init__(self, model: nn.Module, topology: Topology):
        self.topology = topology
        assert topology.num_processes > 1
        self._model = weakref.ref(model)
        # On process 0 between `gather` and the state dicts that are saved next.
        self._whole_weights: dict[str, Tensor] = {}
        self._whole_state: dict[int, dict[str, Any]] = {}
        experts = expert_parameters(model)
        model._ddp_params_and_buffers_to_ignore = list(experts)  # type: ignore[assignment]  # DDP's
        for parameter in experts.values():
            parameter.param_group = self  # type: ignore[attr-defined]

    @staticmethod
    def of(parameters: Iterable[nn.Parameter]) -> "SpreadExperts | None":
        """Those that parameters belong to; None where no expert is on another process."""
        groups = (getattr(parameter, "param_group", None) for parameter in parameters)
        return next((group for group in groups if isinstance(group, SpreadExperts)), None)

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Collect weights and optimizer state of all experts on process 0. A collective.

        Raises:
            RuntimeError: while an exception is handled, as when fairseq wants to save `crash.pt`:
                the other processes are not gathering and would be waited for without end.
        """
        if sys.exc_info()[0] is not None:
            raise RuntimeError(
                f"process {self.topology.process_index} failed; no crash.pt is written, since "
                "the experts of the other processes cannot be gathered. The last checkpoint "
                "stands; run the same command to resume from it"
            )
        for name, parameter in self._parameters().items():
            whole = gather_experts(parameter, self.topology)
            if whole is not None:
                self._whole_weights[name] = whole
        for index, parameter in _numbered_experts(optimizer.param_groups):
            state = optimizer.state.get(parameter, {})
            self._whole_state[index] = {
                name: gather_experts(value, self.topology)
                if torch.is_tensor(value) and value.shape == parameter.shape
                else value
                for name, value in sorted(state.items())
            }

    def with_whole_weights(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's state dict with the experts of all processes, gathered before.

        Raises:
            RuntimeError: they were not gathered.
        """
        if not self._whole_weights:
            raise RuntimeError(
                "the experts live on several processes and were not gathered; train with "
                "--optimizer moe_adam, which gathers them for every checkpoint"
            )
        whole, self._whole_weights = self._whole_weights, {}
        for name, weights in whole.items():
            state_dict[name] = weights
        return state_dict

    def own_weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a checkpoint with this process's share of each expert's."""
        own = dict(state_dict)
        for name in self._parameters().keys() & own.keys():
            own[name] = own_share(own[name], self.topology)
        return own

    def whole_optimizer_state(self) -> dict[int, dict[str, Any]]:
        """The state of all experts by the parameter's index, gathered before; on process 0."""
        whole, self._whole_state = self._whole_state, {}
        assert whole, "fairseq consolidates before it saves"
        return whole

    def own_optimizer_state(self, param_groups: list, state: dict[int, dict]) -> dict[int, dict]:
        """A loaded optimizer state with this process's share of each expert's."""
        own = dict(state)
        for index, parameter in _numbered_experts(param_groups):
            own[index] = {
                name: own_share(value, self.topology)
                if torch.is_tensor(value) and value.dim() == parameter.dim()
                else value
                for name, value in state.get(index, {}).items()
            }
        return own

    def _parameters(self) -> dict[str, nn.Parameter]:
        model = self._model()
        assert model is not None, "a model outlives its optimizer"
        return expert_parameters(model)


def expert_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The expert parameters of a model by name."""
    return {name: p for name, p in model.named_parameters() if hasattr(p, "expert")}


def _numbered_experts(param_groups: list) -> list[tuple[int, nn.Parameter]]:
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    return [(index, p) for index, p in enumerate(parameters) if hasattr(p, "expert")]
