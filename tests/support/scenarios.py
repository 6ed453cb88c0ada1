"""The cases that the layer's laws are checked on, and one run of the layer on a case."""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from user_dir.fast_moe.experts.ffn import ExpertFFN
from user_dir.fast_moe.experts.sharding import gather_experts, sum_over_replicas
from user_dir.fast_moe.gating.gates import GShardGate, SwitchGate
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.report import gather_sums
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.fast_moe.tokens.ranked import rank_tokens

DIM, HIDDEN = 8, 12
WEIGHTS = ("weight1_LDH", "bias1_LH", "weight2_LHD", "bias2_LD")


@dataclass(frozen=True)
class Scenario:
    """A layer and the tokens of each rank: sentence lengths, rank by rank."""

    name: str
    layout: tuple[int, int] = (2, 2)
    num_experts: int = 8
    lengths: tuple[tuple[int, ...], ...] = ((5, 3, 7), (6,), (4, 4), (2, 9, 1))
    top1: bool = False
    capacity_factor: float = 1.0
    normalize_before: bool = False
    prioritized: bool = False
    policy: str = "all"
    with_noise: bool = False
    training: bool = True
    evaluation_fraction: float = 0.0
    use_fp32: bool = False
    hierarchical: bool = False

    @property
    def tokens_of_rank(self) -> list[int]:
        return [sum(lengths) for lengths in self.lengths]

    @property
    def drops(self) -> bool:
        if self.training:
            return self.capacity_factor > 0
        return self.evaluation_fraction != 0


RAGGED = ((5, 3, 7), (), (4, 4), (1,))
SCENARIOS = [
    Scenario("gshard with drops", capacity_factor=0.6),
    Scenario("gshard normalised before dropping", capacity_factor=0.5, normalize_before=True),
    Scenario("gshard prioritised", capacity_factor=0.5, prioritized=True),
    Scenario("gshard dropless", capacity_factor=0),
    Scenario("gshard sampling", capacity_factor=0.7, policy="sampling", with_noise=True),
    Scenario("gshard random", capacity_factor=0.5, policy="random", with_noise=True),
    Scenario(
        "gshard random before",
        capacity_factor=0,
        policy="random",
        with_noise=True,
        normalize_before=True,
    ),
    Scenario("switch with drops", capacity_factor=0.6, top1=True),
    Scenario("switch dropless, float32 gate", capacity_factor=0, top1=True, use_fp32=True),
    Scenario("empty rank and one token", capacity_factor=0.4, lengths=RAGGED),
    Scenario("empty rank dropless", capacity_factor=0, lengths=RAGGED),
    Scenario("one expert a rank", num_experts=4, capacity_factor=0.5),
    Scenario("four nodes of one rank", layout=(4, 1), capacity_factor=0.5),
    Scenario("fewer experts than ranks", num_experts=2, capacity_factor=0.5),
    Scenario("fewer experts than ranks, dropless", num_experts=2, capacity_factor=0),
    Scenario("one expert", num_experts=1, capacity_factor=0.5),
    Scenario("one expert dropless", num_experts=1, capacity_factor=0, lengths=RAGGED),
    Scenario("evaluation dropless", training=False),
    Scenario("evaluation with a fraction", training=False, evaluation_fraction=0.2),
    Scenario(
        "evaluation as in training", training=False, evaluation_fraction=-1, capacity_factor=0.5
    ),
    Scenario("hierarchical, prioritised", capacity_factor=0.5, prioritized=True, hierarchical=True),
    Scenario("hierarchical, empty rank", capacity_factor=0, lengths=RAGGED, hierarchical=True),
    Scenario("hierarchical, switch", capacity_factor=0.6, top1=True, hierarchical=True),
    Scenario(
        "hierarchical, two nodes hold every expert",
        layout=(4, 1),
        num_experts=2,
        capacity_factor=0.5,
        hierarchical=True,
    ),
    Scenario(
        "hierarchical, each node holds every expert",
        num_experts=2,
        capacity_factor=0.5,
        hierarchical=True,
    ),
]
# Layouts whose blocks do not align with the processes: three ranks a node, six experts or ranks.
SIX = ((5, 3), (6,), (), (2, 9), (1,), (4,))
MISALIGNED = [
    Scenario("six ranks", layout=(2, 3), num_experts=6, lengths=SIX, capacity_factor=0.5),
    Scenario(
        "six ranks, hierarchical",
        layout=(2, 3),
        num_experts=12,
        lengths=SIX,
        capacity_factor=0.5,
        hierarchical=True,
    ),
    Scenario(
        "six ranks, three nodes, hierarchical",
        layout=(3, 2),
        num_experts=6,
        lengths=SIX,
        capacity_factor=0.5,
        hierarchical=True,
    ),
    Scenario(
        "three experts, six ranks", layout=(2, 3), num_experts=3, lengths=SIX, capacity_factor=0
    ),
    Scenario(
        "three experts, six ranks, drops",
        layout=(2, 3),
        num_experts=3,
        lengths=SIX,
        capacity_factor=0.5,
    ),
]


@dataclass
class LayerRun:
    """Values and gradients of one run, with those of all ranks (on process 0)."""

    outputs: list[Tensor]
    balance_losses: Tensor
    input_grads: list[Tensor]
    gate_grad: Tensor
    expert_grads: list[Tensor]
    sums: Tensor


def tokens_of(scenario: Scenario) -> list[Tensor]:
    """The (T, D) input of every rank."""
    generator = torch.Generator().manual_seed(11)
    return [
        torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        for count in scenario.tokens_of_rank
    ]


def loss_weights(scenario: Scenario) -> list[Tensor]:
    """What each rank's output is multiplied with to make a loss that tells all values apart."""
    generator = torch.Generator().manual_seed(12)
    return [
        torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        for count in scenario.tokens_of_rank
    ]


def noise_key(scenario: Scenario) -> NoiseKey | None:
    return NoiseKey(seed=3, update=5, micro_batch=1) if scenario.with_noise else None


def build_layer(scenario: Scenario, topology: Topology) -> EfficientMoeLayer:
    torch.manual_seed(7)
    if scenario.top1:
        gate = SwitchGate(
            dim=DIM,
            num_experts=scenario.num_experts,
            use_fp32=scenario.use_fp32,
            prioritize=scenario.prioritized,
        )
    else:
        gate = GShardGate(
            dim=DIM,
            num_experts=scenario.num_experts,
            use_fp32=scenario.use_fp32,
            second_policy=scenario.policy,
            normalize_before_dropping=scenario.normalize_before,
            prioritize=scenario.prioritized,
        )
    experts = ExpertFFN(dim=DIM, hidden_dim=HIDDEN, topology=topology)
    capacity = CapacityRule(
        top_k=1 if scenario.top1 else 2,
        factor=scenario.capacity_factor,
        evaluation_fraction=scenario.evaluation_fraction,
    )
    layer = EfficientMoeLayer(
        gate=gate,
        experts=experts,
        topology=topology,
        capacity=capacity,
        name="encoder.1",
        hierarchical=scenario.hierarchical,
    )
    with torch.no_grad():
        gate.projection.weight.mul_(3)  # decided enough for experts to overflow
    return layer.double().train(scenario.training)


def run_layer(scenario: Scenario, *, device: torch.device | str = "cpu") -> LayerRun:
    """One forward and backward pass of the layer on the processes that run."""
    _, count = running_processes()
    topology = Topology(Layout(*scenario.layout), num_experts=scenario.num_experts)
    layer = build_layer(scenario, topology).to(device)
    ranks = topology.hosted_ranks
    lengths = [
        (length, hosted)
        for hosted, rank in enumerate(ranks)
        for length in scenario.lengths[rank] or (0,)
    ]
    longest = max(max(length for length, _ in lengths), 1)
    is_pad_BS = torch.arange(longest).unsqueeze(0) >= torch.tensor([[n] for n, _ in lengths])
    tokens = rank_tokens(
        is_pad_BS.to(device),
        torch.tensor([hosted for _, hosted in lengths], device=device),
        num_hosted=topology.num_hosted,
        noise=noise_key(scenario),
    )
    inputs = [tokens_of(scenario)[rank].requires_grad_() for rank in ranks]
    weights = [loss_weights(scenario)[rank] for rank in ranks]
    x_BSD = torch.zeros(*is_pad_BS.shape, DIM, dtype=torch.float64)
    weight_BSD = x_BSD.clone()
    x_BSD = x_BSD.index_put(tuple((~is_pad_BS).nonzero().T), torch.cat(inputs))
    weight_BSD[~is_pad_BS] = torch.cat(weights)
    x_SBD = x_BSD.transpose(0, 1).to(device)
    y_VTD, report = layer(tokens.collect(x_SBD), tokens)
    y_BSD = tokens.scatter(y_VTD, x_SBD).transpose(0, 1).cpu()
    balance_loss_V = report.balance_loss_V.cpu()
    loss = (y_BSD * weight_BSD).sum() + 0.3 * balance_loss_V.sum()
    loss.backward()

    rows = y_BSD.detach()[~is_pad_BS].split([len(x) for x in inputs])
    experts = [getattr(layer.experts, name) for name in WEIGHTS]
    sum_over_replicas(experts, topology)
    gate_grad = layer.gate.projection.weight.grad.cpu().clone()
    if count > 1:
        dist.all_reduce(gate_grad)
    return LayerRun(
        outputs=_from_all(list(rows)),
        balance_losses=torch.stack(_from_all(list(balance_loss_V.detach()))),
        input_grads=_from_all([x.grad for x in inputs]),
        gate_grad=gate_grad,
        expert_grads=[gather_experts(p.grad, topology) for p in experts],
        sums=sum(_from_all([gather_sums([report])[0].cpu()])),
    )


def _from_all(values: list) -> list:
    """The values of all processes, in order of their ranks."""
    _, count = running_processes()
    if count == 1:
        return values
    gathered = [None] * count
    dist.all_gather_object(gathered, values)
    return [value for part in gathered for value in part]


def as_dict(run: LayerRun) -> dict:
    return replace(run).__dict__
