"""A stack of mixtures on any device and in any precision; needs no fairseq.

`ClusteredMoeStack` does the same with its layers, its norms and its dense layer aside.
"""

import contextlib
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.stack_cases import CASES, DIM, StackCase, inputs_of
from user_dir.fast_moe.clustering import ClusteringRule
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts import ExpertFFN
from user_dir.fast_moe.gates import BalanceGate, GShardGate, SwitchGate
from user_dir.fast_moe.moe import EfficientMoeLayer, MoeOutput
from user_dir.fast_moe.tokens import PlacedTokens, rank_tokens
from user_dir.fast_moe.topology import Layout, Topology

HIDDEN = 48  # a multiple of 16 bytes in every precision


class Chain(nn.Module):
    """Mixtures that follow each other, each with a norm before and the residual around it."""

    def __init__(self, case: StackCase, topology: Topology):
        super().__init__()
        self.recompute = case.recompute
        self.is_decoder = case.stack == "decoder"
        self.layers = nn.ModuleList(
            build_mixture(case.config, topology, kind=kind, name=f"{case.stack}.moe{index}")
            for index, kind in enumerate(case.kinds)
        )

    def forward(self, x_SBD: Tensor, tokens: PlacedTokens) -> tuple[Tensor, list[MoeOutput]]:
        x_VTD = tokens.collect(x_SBD)
        here, clusters, outputs = tokens, None, []
        for layer in self.layers:
            if layer.kind == "cluster":
                x_VTD, clusters = layer.token_clustering_moe(
                    x_VTD,
                    tokens,
                    detach=self.is_decoder and self.training,
                    by_step=self.is_decoder,
                )
                here = clusters.tokens
                y_VTD = self._run(layer.cluster_experts, norm(x_VTD), clusters)
                weight_VT1 = layer.cluster_weight(x_VTD, clusters)
                x_VTD = x_VTD + (y_VTD if weight_VT1 is None else y_VTD * weight_VT1)
            else:
                outputs.append(self._run(layer, norm(x_VTD), here))
                x_VTD = x_VTD + outputs[-1].y_VTD
        if clusters is not None:
            x_VTD = clusters.restore(x_VTD)
        return tokens.scatter(x_VTD, x_SBD), outputs

    def _run(self, function, *args):
        return (
            checkpoint(function, *args, use_reentrant=False) if self.recompute else function(*args)
        )


def norm(x_VTD: Tensor) -> Tensor:
    return F.layer_norm(x_VTD, x_VTD.shape[-1:])


def build_mixture(
    config: MoeConfig, topology: Topology, *, kind: str, name: str
) -> EfficientMoeLayer:
    """A layer of one of the kinds of `EfficientMoeLayer`."""
    clustering = ClusteringRule(config.gate_type, config.temperature, config.inference_routing)
    experts: nn.Module = build_experts(config, topology, dim=DIM)
    if kind == "feat":
        features = config.shares.features(DIM)
        experts = nn.ModuleDict(
            {
                reach.value: build_experts(config, topology, dim=features[reach])
                for reach in config.shares.reaches()
            }
        )
    return EfficientMoeLayer(
        gate=build_gate(config, topology, kind=kind),
        experts=experts,
        topology=topology,
        capacity=config.capacity,
        name=name,
        kind=kind,
        shares=config.shares if kind != "plain" and config.scomoe_type != "none" else None,
        clustering=clustering if kind == "cluster" else None,
        overlap=config.exchange_schedule == "overlap",
    )


def build_gate(
    config: MoeConfig, topology: Topology, *, kind: str
) -> SwitchGate | GShardGate | BalanceGate:
    """A gate whose decisions are clear enough for experts to overflow."""
    common = {"dim": DIM, "num_experts": config.num_experts, "use_fp32": config.gating_use_fp32}
    routing = {**common, "prioritize": config.prioritized_routing}
    gate: SwitchGate | GShardGate | BalanceGate
    if kind == "cluster":
        by_node = config.shares.local == 0 and config.shares.node < 1
        num_groups = topology.layout.num_nodes if by_node else config.num_experts
        gate = BalanceGate(num_groups=num_groups, **common)
    elif config.top1:
        gate = SwitchGate(**routing)
    else:
        gate = GShardGate(second_policy=config.second_expert_policy, **routing)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.mul_(4)
    return gate


def build_experts(config: MoeConfig, topology: Topology, *, dim: int) -> ExpertFFN:
    return ExpertFFN(dim=dim, hidden_dim=HIDDEN, topology=topology, backend=config.expert_backend)


def build_chain(
    case: StackCase, *, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Chain:
    """Weights that every precision holds exactly, so that only the arithmetic differs."""
    torch.manual_seed(7)
    topology = Topology(Layout(*case.layout), num_experts=case.config.num_experts)
    chain = Chain(case, topology).to(torch.bfloat16)
    return chain.to(device=device, dtype=dtype).train(case.training)


def tokens_of(case: StackCase, *, device: torch.device | str) -> PlacedTokens:
    """The sentences of all ranks, on one process."""
    lengths = [(n, rank) for rank, of_rank in enumerate(case.lengths) for n in of_rank or (0,)]
    longest = max(length for length, _ in lengths)
    is_pad_BS = torch.arange(longest) >= torch.tensor([[length] for length, _ in lengths])
    rank_B = torch.tensor([rank for _, rank in lengths])
    shares = case.config.shares if case.config.scomoe_type == "seq" else None
    return rank_tokens(
        is_pad_BS.to(device),
        rank_B.to(device),
        num_hosted=len(case.lengths),
        noise=case.noise_key,
        shares=shares,
    )


def activations_of(
    case: StackCase,
    tokens: PlacedTokens,
    *,
    seed: int = 11,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Tensor:
    """(S, B, D) for the sentences of `tokens_of`, exact in every precision."""
    rows = torch.cat(inputs_of(case, seed=seed)).to(torch.bfloat16)
    # In the order of the ranks' tokens, which lie anywhere in the batch.
    x_ND = rows.new_zeros(tokens.place_N.shape[0], DIM)
    position_VT = tokens.position_VT.cpu()
    x_ND[position_VT[position_VT >= 0]] = rows
    return x_ND.view(-1, tokens.num_sentences, DIM).to(device=device, dtype=dtype)


def run_chain(
    case: StackCase,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Values and gradients of a forward and backward pass, by name, on the CPU in double."""
    chain = build_chain(case, device=device, dtype=dtype)
    tokens = tokens_of(case, device=device)
    x_SBD, weight_SBD = (
        activations_of(case, tokens, seed=seed, device=device, dtype=dtype) for seed in (11, 12)
    )
    values = pass_through(chain, tokens, x_SBD.requires_grad_(), weight_SBD, autocast=autocast)
    return {name: value.detach().cpu().double() for name, value in values.items()}


def pass_through(
    chain: Chain,
    tokens: PlacedTokens,
    x_SBD: Tensor,
    weight_SBD: Tensor,
    *,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The forward and backward pass of `run_chain`; nothing here waits for a GPU."""
    device = x_SBD.device.type
    precision = torch.autocast(device, autocast) if autocast else contextlib.nullcontext()
    with precision:
        y_SBD, outputs = chain(x_SBD, tokens)
    loss = (y_SBD * weight_SBD).sum()
    for output in outputs:
        loss = loss + 0.3 * output.report.balance_loss_V.sum()
    loss.backward()
    parameters = dict(chain.named_parameters())
    return {
        "added": y_SBD - x_SBD,
        "x.grad": x_SBD.grad,
        **{f"balance.{i}": output.report.balance_loss_V for i, output in enumerate(outputs)},
        **{
            f"{name}.grad": torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in parameters.items()
        },
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of that of the expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-9))


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], *, within: float) -> None:
    """Every value and gradient of two runs of a chain, by `relative_error`."""
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], value) for name, value in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] <= within, f"{worst} is {errors[worst]:.2g} away"


def with_options(case: StackCase, **options) -> StackCase:
    """The same case with other options of the model."""
    return replace(case, options={**case.options, **options})


PLAIN = {"scomoe_type": "none"}
# All have several reaches or experts in use on 2 nodes x 2 ranks, hosted by one process.
VARIANTS = [
    StackCase("gshard", PLAIN),
    StackCase("gshard, prioritised", {**PLAIN, "moe_batch_prioritized_routing": True}),
    StackCase("gshard, dropless", {**PLAIN, "capacity_factor": 0}, drops=False),
    StackCase("gshard, recomputed", PLAIN, recompute=True),
    StackCase("gshard, fewer experts than ranks", {**PLAIN, "moe_expert_count": 2}),
    StackCase("switch", {**PLAIN, "moe_top1_expert": True}),
    StackCase("switch, dropless", {**PLAIN, "moe_top1_expert": True, "capacity_factor": 0}),
    *(
        case
        for case in CASES
        if case.name
        in {
            "seq",
            "seq, one expert a rank",
            "seq, switch",
            "seq, dropless",
            "seq, ragged",
            "seq, evaluation",
            "seq, recomputed",
            "feat",
            "feat, switch",
            "feat, dropless",
            "feat, ragged",
            "cluster, gshard",
            "cluster by node",
            "cluster, sigmoid",
            "cluster, decoder",
            "cluster, seq",
            "cluster, seq, ragged",
            "cluster, seq, sigmoid",
            "cluster, seq, recomputed",
            "cluster, feat",
            "cluster, greedy",
            "cluster, balanced",
            "cluster, balanced by step",
        }
    ),
]
FIXED_CAPACITY = [
    case
    for case in VARIANTS
    if case.training and "cluster" not in case.kinds and case.config.capacity_factor > 0
]
