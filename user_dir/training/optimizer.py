"""The optimizer `moe_adam`: Adam for models whose experts live on several processes."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from fairseq.optim import register_optimizer
from fairseq.optim.adam import Adam, FairseqAdam, FairseqAdamConfig
from fairseq.optim.fairseq_optimizer import FairseqOptimizer

from user_dir.checkpoints.gathering import SpreadExperts
from user_dir.errors import UserError
from user_dir.fast_moe.experts.sharding import sum_over_replicas


@dataclass
class MoeAdamConfig(FairseqAdamConfig):
    """The options of fairseq's `adam`, of which --use-old-adam is always on."""


@register_optimizer("moe_adam", dataclass=MoeAdamConfig)
class MoeAdam(FairseqAdam):
    """fairseq's Adam with the state of all experts in checkpoints and all of them in the norm."""

    def __init__(self, cfg: MoeAdamConfig, params):
        FairseqOptimizer.__init__(self, cfg)
        if cfg.fp16_adam_stats:
            raise UserError(
                "--fp16-adam-stats does not work with --optimizer moe_adam, which keeps its state "
                "in float32: only apex's fused Adam can do that; leave it out"
            )
        self._optimizer = ConsolidatingAdam(params, **self.optimizer_config)

    def all_reduce_grads(self, module) -> None:
        """Average shared gradients, then add up those of replicated experts."""
        super().all_reduce_grads(module)
        spread = SpreadExperts.of(module.parameters())
        if spread is not None:
            experts = [p for p in module.parameters() if hasattr(p, "expert")]
            sum_over_replicas(experts, spread.topology)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn=None) -> torch.Tensor:
        """Clip by the norm over all shared parameters and all experts of all processes."""
        grads = [p.grad for p in self.params if p.grad is not None]
        total_norm = self._global_norm()
        if max_norm > 0:
            factor = (max_norm / (total_norm + 1e-6)).clamp(max=1)
            torch._foreach_mul_(grads, factor)
        return total_norm

    def _global_norm(self) -> torch.Tensor:
        shared = [p.grad for p in self.params if p.grad is not None and not hasattr(p, "expert")]
        experts = [p.grad for p in self.params if p.grad is not None and hasattr(p, "expert")]
        device = next(iter(self.params)).device
        square = _square_norm(experts, device)
        spread = SpreadExperts.of(self.params)
        if spread is not None:
            dist.all_reduce(square)
            square = square / spread.topology.num_processes_per_expert
        return (square + _square_norm(shared, device)).sqrt()


def _square_norm(grads: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    if not grads:
        return torch.zeros((), device=device)
    norms = torch._foreach_norm([grad.float() for grad in grads])
    return torch.stack(norms).square().sum()


class ConsolidatingAdam(Adam):
    """fairseq's Adam step; its state dict holds the state of all experts."""

    @property
    def supports_flat_params(self) -> bool:
        # Flat buffers would mix experts with shared weights.
        return False

    def consolidate_state_dict(self) -> None:
        """Gather experts and their state on process 0; fairseq calls it on all before saving."""
        if (spread := self._spread_experts()) is not None:
            spread.gather(self)

    def state_dict(self):
        state = super().state_dict()
        if (spread := self._spread_experts()) is not None:
            state["state"] = {**state["state"], **spread.whole_optimizer_state()}
        return state

    def load_state_dict(self, state_dict) -> None:
        """Load the state of all experts, keeping this process's share."""
        if (spread := self._spread_experts()) is not None:
            own = spread.own_optimizer_state(self.param_groups, state_dict["state"])
            state_dict = {**state_dict, "state": own}
        super().load_state_dict(state_dict)

    def _spread_experts(self) -> SpreadExperts | None:
        return SpreadExperts.of(p for group in self.param_groups for p in group["params"])
