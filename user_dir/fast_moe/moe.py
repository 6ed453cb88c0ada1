"""A mixture-of-experts layer over the tokens of the hosted ranks. Level 3."""

from dataclasses import dataclass

from torch import Tensor, nn

from user_dir.fast_moe.config import CapacityRule
from user_dir.fast_moe.dispatch import combine, dispatch
from user_dir.fast_moe.experts import ExpertFFN
from user_dir.fast_moe.gates import GShardGate, SwitchGate
from user_dir.fast_moe.statistics import layer_sums
from user_dir.fast_moe.tokens import RankedTokens
from user_dir.fast_moe.topology import Topology


@dataclass(frozen=True)
class MoeOutput:
    """What a layer gives: its values, its balance loss on each hosted rank, its statistics."""

    y_VTD: Tensor
    balance_loss_V: Tensor
    sums: Tensor


class EfficientMoeLayer(nn.Module):
    """Routes tokens to the experts of all ranks and combines what they answer.

    Args:
        name: tells this layer's routing noise from that of the others, "encoder.1" say.
        capacity: slots of an expert, from the number of tokens.
    """

    def __init__(
        self,
        *,
        gate: SwitchGate | GShardGate,
        experts: ExpertFFN,
        topology: Topology,
        capacity: CapacityRule,
        name: str,
    ):
        super().__init__()
        self.gate = gate
        self.experts = experts
        self.topology = topology
        self.capacity = capacity
        self.name = name
        topology.plan(topology.block_size)

    def forward(self, x_VTD: Tensor, tokens: RankedTokens) -> MoeOutput:
        """Apply the layer; 0 where every choice of a token was dropped, and at padding."""
        topology = self.topology
        noise = None
        if tokens.noise is not None:
            noise = tokens.noise.of_layer(self.name, topology.hosted_ranks, x_VTD.device)
        z_VTE = self.gate.logits(x_VTD)
        capacity = self.capacity.slots(
            tokens.num_tokens, topology.num_experts, training=self.training
        )
        gated = self.gate.route(z_VTE, tokens.is_pad_VT, capacity=capacity, noise=noise)
        batch, back = dispatch(x_VTD, gated.routing, topology.plan(topology.block_size))
        y_VTD = combine(self.experts(batch.rows, batch.counts), back)
        sums = layer_sums(
            gated.routing,
            tokens.is_pad_VT,
            entropy_V=gated.entropy_V,
            balance_loss_V=gated.balance_loss_V,
        )
        return MoeOutput(y_VTD=y_VTD, balance_loss_V=gated.balance_loss_V, sums=sums)
