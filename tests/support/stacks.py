"""The cases that SCoMoE's laws are checked on, and one run of a stack of mixtures on a case."""

from argparse import Namespace
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.scenarios import _from_all
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.expert_sharding import gather_experts
from user_dir.fast_moe.layer_plan import plan_stack
from user_dir.fast_moe.noise import NoiseKey
from user_dir.fast_moe.tokens import rank_tokens
from user_dir.fast_moe.topology import Layout, Topology
from user_dir.fast_moe.transformer_layers import ClusteredMoeStack, MoeParts, StackConfig

DIM, HIDDEN = 32, 12
LENGTHS = ((5, 3, 7), (6, 5), (4, 4), (2, 9, 1))
RAGGED = ((5, 3, 7), (), (4, 4), (1,))


@dataclass(frozen=True)
class StackCase:
    """Options of a model, and the lengths of each rank's sentences."""

    name: str
    options: dict = field(default_factory=dict)
    layout: tuple[int, int] = (2, 2)
    lengths: tuple[tuple[int, ...], ...] = LENGTHS
    num_layers: int = 4
    stack: str = "encoder"
    training: bool = True
    with_noise: bool = False
    normalize_before: bool = True
    recompute: bool = False
    # What the case must show: shares of dropped choices, reaches in use.
    drops: bool = True
    reaches: tuple[str, ...] = ("local", "node", "global")

    @property
    def config(self) -> MoeConfig:
        options = {"moe_freq": 2, "moe_expert_count": 8, "capacity_factor": 0.5, "seed": 3}
        options |= {"reorder_layers": True, "moe_second_expert_policy": "all"}
        return MoeConfig.from_args(Namespace(**{**options, **self.options}))

    @property
    def kinds(self) -> tuple[str, ...]:
        return plan_stack(self.config, stack=self.stack, num_layers=self.num_layers).tail

    @property
    def tokens_of_rank(self) -> list[int]:
        return [sum(lengths) for lengths in self.lengths]

    @property
    def noise_key(self) -> NoiseKey | None:
        return NoiseKey(seed=3, update=5, micro_batch=1) if self.with_noise else None

    @property
    def stack_config(self) -> StackConfig:
        return StackConfig(
            stack=self.stack,
            dim=DIM,
            ffn_dim=HIDDEN,
            activation="relu",
            activation_dropout=0.0,
            dropout=0.0,
            normalize_before=self.normalize_before,
        )


SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
CLUSTER = {"token_cluster": True}
ONE_EXPERT = {"moe_expert_count": 4}
GLOBAL_ONLY = ("global",)
CASES = [
    StackCase("seq", SEQ),
    StackCase("seq, three layers", SEQ, num_layers=6),
    StackCase("seq, one expert a rank", {**SEQ, **ONE_EXPERT}),
    StackCase("seq, switch", {**SEQ, "moe_top1_expert": True}),
    StackCase("seq, switch, one expert", {**SEQ, **ONE_EXPERT, "moe_top1_expert": True}),
    StackCase("seq, dropless", {**SEQ, "capacity_factor": 0}, drops=False),
    StackCase("seq, all within nodes", {**SEQ, "ratio2": 0.8}, reaches=("local", "node")),
    StackCase("seq, nothing stays on its rank", {**SEQ, "ratio1": 0}, reaches=("node", "global")),
    StackCase("seq, all stay", {**SEQ, "ratio1": 1, "ratio2": 0}, reaches=("local",)),
    StackCase("seq, noise", {**SEQ, "moe_second_expert_policy": "sampling"}, with_noise=True),
    StackCase("seq, ragged", SEQ, lengths=RAGGED),
    StackCase("seq, one node", SEQ, layout=(1, 4), reaches=("local", "global")),
    StackCase("seq, one rank a node", SEQ, layout=(4, 1)),
    StackCase("seq, evaluation", SEQ, training=False, drops=False),
    StackCase("seq, post-norm", SEQ, normalize_before=False),
    StackCase("seq, norm after", {**SEQ, "layernorm_after_moe_layer": True}),
    StackCase("seq, recomputed", SEQ, recompute=True),
    StackCase("feat", FEAT),
    StackCase("feat, one expert a rank", {**FEAT, **ONE_EXPERT}),
    StackCase("feat, projection", {**FEAT, "scomoe_feat_projection": True}),
    StackCase("feat, switch", {**FEAT, "moe_top1_expert": True}),
    StackCase("feat, dropless", {**FEAT, "capacity_factor": 0}, drops=False),
    StackCase("feat, no node", {**FEAT, "ratio2": 0}, reaches=("local", "global")),
    StackCase("feat, ragged", FEAT, lengths=RAGGED),
    StackCase("feat, one node", FEAT, layout=(1, 4)),
    StackCase("feat, one rank a node", FEAT, layout=(4, 1)),
    StackCase("feat, evaluation", FEAT, training=False, drops=False),
    StackCase("cluster alone", CLUSTER, num_layers=2, drops=False, reaches=()),
    StackCase("cluster, gshard", {**CLUSTER, "ratio1": 0.2}, reaches=GLOBAL_ONLY),
    StackCase("cluster by node", CLUSTER, reaches=GLOBAL_ONLY),
    StackCase("cluster, sigmoid", {**CLUSTER, "gate_type": "sigmoid"}, reaches=GLOBAL_ONLY),
    StackCase("cluster, decoder", {**CLUSTER, **SEQ}, stack="decoder"),
    StackCase("cluster, seq", {**CLUSTER, **SEQ, "temperature": 0.2}),
    StackCase("cluster by node, seq", {**CLUSTER, **SEQ, "ratio1": 0}, reaches=("node", "global")),
    StackCase("cluster, seq, one expert", {**CLUSTER, **SEQ, **ONE_EXPERT}),
    StackCase("cluster, seq, ragged", {**CLUSTER, **SEQ}, lengths=RAGGED),
    StackCase("cluster, seq, sigmoid", {**CLUSTER, **SEQ, "gate_type": "sigmoid"}),
    StackCase("cluster, seq, recomputed", {**CLUSTER, **SEQ}, recompute=True),
    StackCase("cluster, feat", {**CLUSTER, **FEAT}),
    StackCase("cluster, feat, switch", {**CLUSTER, **FEAT, "moe_top1_expert": True}),
    StackCase(
        "cluster, seq, one node", {**CLUSTER, **SEQ}, layout=(1, 4), reaches=("local", "global")
    ),
    StackCase("cluster, seq, one rank a node", {**CLUSTER, **SEQ}, layout=(4, 1)),
    StackCase("cluster, greedy", {**CLUSTER, **SEQ}, training=False, drops=False),
    StackCase(
        "cluster by node, greedy",
        {**CLUSTER, **SEQ, "ratio1": 0},
        training=False,
        drops=False,
        reaches=("node", "global"),
    ),
    StackCase(
        "cluster, balanced",
        {**CLUSTER, **SEQ, "scomoe_inference_routing": "balanced"},
        training=False,
        drops=False,
    ),
    StackCase(
        "cluster, balanced by step",
        {**CLUSTER, **SEQ, "scomoe_inference_routing": "balanced"},
        training=False,
        drops=False,
        stack="decoder",
    ),
]


@dataclass
class StackRun:
    """Values and gradients of one run, those of all ranks (on process 0)."""

    outputs: list[Tensor]
    balance_losses: list[Tensor]  # of each mixture that has one, by rank
    input_grads: list[Tensor]
    grads: dict[str, Tensor]  # by parameter
    sums: list[Tensor]


def inputs_of(case: StackCase, seed: int = 11) -> list[Tensor]:
    """A (T, D) tensor for every rank."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        for count in case.tokens_of_rank
    ]


def build_stack(case: StackCase, topology: Topology) -> ClusteredMoeStack:
    torch.manual_seed(7)
    parts = MoeParts(config=case.config, topology=topology)
    cfg = SimpleNamespace(checkpoint_activations=case.recompute, offload_activations=False)
    stack = ClusteredMoeStack(parts, case.stack_config, case.kinds, cfg)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "gate" in name:
                parameter.mul_(4)  # decided enough for experts to overflow
            if "norm" in name or "projection.0" in name or "projection.1" in name:
                generator = torch.Generator().manual_seed(len(name))
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return stack.double().train(case.training)


def run_stack(case: StackCase) -> StackRun:
    """One forward and backward pass on the processes that run."""
    topology = Topology(Layout(*case.layout), num_experts=case.config.num_experts)
    stack = build_stack(case, topology)
    ranks = topology.hosted_ranks
    lengths = [(n, hosted) for hosted, r in enumerate(ranks) for n in case.lengths[r] or (0,)]
    longest = max(1, *(length for length, _ in lengths))
    is_pad_BS = torch.arange(longest).unsqueeze(0) >= torch.tensor([[n] for n, _ in lengths])
    tokens = rank_tokens(
        is_pad_BS,
        torch.tensor([hosted for _, hosted in lengths]),
        num_hosted=topology.num_hosted,
        noise=case.noise_key,
        shares=MoeParts(config=case.config, topology=topology).seq_shares,
    )
    inputs = [inputs_of(case)[rank].requires_grad_() for rank in ranks]
    weights = [inputs_of(case, seed=12)[rank] for rank in ranks]
    x_BSD = torch.zeros(*is_pad_BS.shape, DIM, dtype=torch.float64)
    weight_BSD = x_BSD.clone()
    x_BSD = x_BSD.index_put(tuple((~is_pad_BS).nonzero().T), torch.cat(inputs))
    weight_BSD[~is_pad_BS] = torch.cat(weights)
    y_SBD, reports = stack(x_BSD.transpose(0, 1), tokens)
    y_BSD = y_SBD.transpose(0, 1)
    losses = [r.balance_loss_V for r in reports if r.balance_loss_V is not None]
    loss = (y_BSD * weight_BSD).sum() + 0.3 * sum(loss_V.sum() for loss_V in losses)
    loss.backward()

    rows = y_BSD.detach()[~is_pad_BS].split([len(x) for x in inputs])
    return StackRun(
        outputs=_from_all(list(rows)),
        balance_losses=[torch.stack(_from_all(list(loss_V.detach()))) for loss_V in losses],
        input_grads=_from_all([x.grad for x in inputs]),
        grads={name: _whole_grad(p, topology) for name, p in stack.named_parameters()},
        sums=[sum(_from_all([report.sums])) for report in reports],
    )


def _whole_grad(parameter: Tensor, topology: Topology) -> Tensor | None:
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if hasattr(parameter, "expert"):
        return gather_experts(grad, topology)
    grad = grad.clone()
    if topology.num_processes > 1:
        dist.all_reduce(grad)
    return grad
