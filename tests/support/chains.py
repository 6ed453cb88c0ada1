"""A stack of mixtures on any device and in any precision; needs no fairseq.

`MixtureTail` does the same with its layers, its norms and its dense layer aside.
"""

import contextlib
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.stack_cases import (
    CASES,
    DIM,
    EIGHT_A_RANK,
    FEAT,
    HIERARCHICAL,
    SEQ,
    StackCase,
    inputs_of,
)
from user_dir.fast_moe.build import ExpertSizes, MoeParts, build_clustering_layer, build_moe_layer
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.fast_moe.report import MoeReport
from user_dir.fast_moe.tokens.ranked import PlacedTokens, rank_tokens

HIDDEN = 48  # a multiple of 16 bytes in every precision


class Chain(nn.Module):
    """Mixtures that follow each other, each with a norm before and the residual around it."""

    def __init__(self, case: StackCase, parts: MoeParts):
        super().__init__()
        self.recompute = case.recompute
        self.is_decoder = case.stack == "decoder"
        self.layers = nn.ModuleList(
            build_mixture(parts, kind=kind, name=f"{case.stack}.moe{index}")
            for index, kind in enumerate(case.kinds)
        )

    def forward(self, x_SBD: Tensor, tokens: PlacedTokens) -> tuple[Tensor, list[MoeReport]]:
        x_VTD = tokens.collect(x_SBD)
        here, clusters, reports = tokens, None, []
        for layer in self.layers:
            if layer.kind is LayerKind.CLUSTER:
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
                y_VTD, report = self._run(layer, norm(x_VTD), here)
                reports.append(report)
                x_VTD = x_VTD + y_VTD
        if clusters is not None:
            x_VTD = clusters.restore(x_VTD)
        return tokens.scatter(x_VTD, x_SBD), reports

    def _run(self, function, *args):
        return (
            checkpoint(function, *args, use_reentrant=False) if self.recompute else function(*args)
        )


def norm(x_VTD: Tensor) -> Tensor:
    return F.layer_norm(x_VTD, x_VTD.shape[-1:])


def build_mixture(parts: MoeParts, *, kind: LayerKind, name: str) -> EfficientMoeLayer:
    """A layer whose gate is decided enough for experts to overflow."""
    sizes = ExpertSizes(DIM, HIDDEN)
    if kind is LayerKind.CLUSTER:
        layer = build_clustering_layer(parts, sizes, name=name)
    else:
        by_expert = parts.config.gate.expert_choice
        layer = build_moe_layer(parts, sizes, kind=kind, name=name, experts_choose=by_expert)
    with torch.no_grad():
        for parameter in layer.gate.parameters():
            parameter.mul_(4)
    return layer


def build_chain(
    case: StackCase, *, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Chain:
    """Weights that every precision holds exactly, so that only the arithmetic differs."""
    torch.manual_seed(7)
    topology = Topology(Layout(*case.layout), num_experts=case.config.num_experts)
    chain = Chain(case, MoeParts(case.config, topology)).to(torch.bfloat16)
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
        y_SBD, reports = chain(x_SBD, tokens)
    loss = (y_SBD * weight_SBD).sum()
    balances = [one.balance_loss_V for one in reports if one.balance_loss_V is not None]
    for balance_V in balances:
        loss = loss + 0.3 * balance_V.sum()
    loss.backward()
    parameters = dict(chain.named_parameters())
    return {
        "added": y_SBD - x_SBD,
        "x.grad": x_SBD.grad,
        **{f"balance.{i}": balance_V for i, balance_V in enumerate(balances)},
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
SERIAL = {"moe_exchange_schedule": "serial"}
SWITCH = {"moe_top1_expert": True}
# All have several reaches or experts in use on 2 nodes x 2 ranks, hosted by one process.
VARIANTS = [
    StackCase("gshard", PLAIN),
    StackCase("gshard, prioritised", {**PLAIN, "moe_batch_prioritized_routing": True}),
    StackCase("gshard, dropless", {**PLAIN, "capacity_factor": 0}, drops=False),
    StackCase("gshard, recomputed", PLAIN, recompute=True),
    StackCase("gshard, hierarchical", {**PLAIN, **HIERARCHICAL}),
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
            "experts choose, seq",
            "experts choose, seq by threshold, recomputed",
            "experts choose, seq, eight experts a rank, more than an even share",
            "experts choose, feat, one expert a rank",
            "bottleneck",
            "cluster, greedy",
            "cluster, balanced",
            "cluster, balanced by step",
            "hierarchical, seq, recomputed",
            "hierarchical, feat, switch, bias",
        }
    ),
]
FIXED_CAPACITY = [
    case
    for case in VARIANTS
    if case.training
    and LayerKind.CLUSTER not in case.kinds
    and case.config.capacity_factor > 0
    and case.config.exchange == "direct"  # exact counts travel otherwise
]
# With more experts a rank than a token has choices, what stays on its rank has exact counts, which
# a grouped product takes from the device; torch has a kernel for it in bfloat16.
EXACT_ON_RANK = [
    StackCase("seq, eight experts a rank", {**SEQ, **EIGHT_A_RANK}),
    StackCase("seq, eight experts a rank, serial", {**SEQ, **EIGHT_A_RANK, **SERIAL}),
    StackCase("seq, switch, eight experts a rank", {**SEQ, **EIGHT_A_RANK, **SWITCH}),
    StackCase("feat, eight experts a rank", {**FEAT, **EIGHT_A_RANK}),
]
