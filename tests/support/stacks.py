"""One run of a stack of mixtures on a case."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.scenarios import _from_all
from tests.support.stack_cases import DIM, HIDDEN, NUM_KEYS, PAD, StackCase, inputs_of
from user_dir.fast_moe.build import ExpertSizes, MoeParts
from user_dir.fast_moe.clustering.centroids import Centroids
from user_dir.fast_moe.clustering.tables import Table
from user_dir.fast_moe.clustering.token_table import TokenTable
from user_dir.fast_moe.experts.sharding import gather_experts
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.report import gather_sums
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.transformer.mixture_tail import MixtureTail
from user_dir.transformer.sublayers import SublayerConfig


@dataclass
class StackRun:
    """Values and gradients of one run, those of all ranks (on process 0)."""

    outputs: list[Tensor]
    balance_losses: list[Tensor]  # of each mixture that has one, by rank
    input_grads: list[Tensor]
    grads: dict[str, Tensor]  # by parameter
    sums: list[Tensor]


def config_of(case: StackCase) -> SublayerConfig:
    return SublayerConfig(
        stack=case.stack,
        sizes=ExpertSizes(DIM, HIDDEN, num_keys=NUM_KEYS),
        dropout=0.0,
        normalize_before=case.normalize_before,
    )


def build_stack(case: StackCase, topology: Topology) -> MixtureTail:
    torch.manual_seed(7)
    parts = MoeParts(config=case.config, topology=topology)
    cfg = SimpleNamespace(checkpoint_activations=case.recompute, offload_activations=False)
    stack = MixtureTail(parts, config_of(case), case.kinds, cfg)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "gate" in name:
                parameter.mul_(4)  # decided enough for experts to overflow
            if "norm" in name or "projection.0" in name or "projection.1" in name:
                generator = torch.Generator().manual_seed(len(name))
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in stack.named_buffers():
            if case.is_learned:
                _learn(name, buffer)
        for table in stack.modules():
            if isinstance(table, TokenTable):
                counts = torch.arange(NUM_KEYS) ** 2
                order = torch.randperm(NUM_KEYS, generator=torch.Generator().manual_seed(1))
                table.fill(Table.of(counts, order, num_experts=table.num_experts))
    for module in stack.modules():
        if isinstance(module, Centroids):
            module._updates_on_host = None
    return stack.double().train(case.training)


def _learn(name: str, buffer: Tensor) -> None:
    """What training without a gradient could have left."""
    generator = torch.Generator().manual_seed(len(name))
    if "weight" in name:
        buffer.fill_(1)
    elif "updates" in name:
        buffer.fill_(1000)
    elif "running_" in name and "share" not in name:
        buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))


def run_stack(case: StackCase, *, device: torch.device | str = "cpu") -> StackRun:
    """One forward and backward pass on the processes that run."""
    topology = Topology(Layout(*case.layout), num_experts=case.config.num_experts)
    stack = build_stack(case, topology).to(device)
    ranks = topology.hosted_ranks
    lengths = [(n, hosted) for hosted, r in enumerate(ranks) for n in case.lengths[r] or (0,)]
    longest = max(1, *(length for length, _ in lengths))
    is_pad_BS = torch.arange(longest).unsqueeze(0) >= torch.tensor([[n] for n, _ in lengths])
    sentences = [ids or [PAD] for r in ranks for ids in case.ids_of_rank[r] or [[]]]
    ids_BS = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in sentences])
    tokens = rank_tokens(
        is_pad_BS.to(device),
        torch.tensor([hosted for _, hosted in lengths], device=device),
        num_hosted=topology.num_hosted,
        noise=case.noise_key,
        shares=MoeParts(config=case.config, topology=topology).seq_shares,
        keys=TokenKeys.of(ids_BS.to(device), pad=PAD),
    )
    inputs = [inputs_of(case)[rank].requires_grad_() for rank in ranks]
    weights = [inputs_of(case, seed=12)[rank] for rank in ranks]
    x_BSD = torch.zeros(*is_pad_BS.shape, DIM, dtype=torch.float64)
    weight_BSD = x_BSD.clone()
    x_BSD = x_BSD.index_put(tuple((~is_pad_BS).nonzero().T), torch.cat(inputs))
    weight_BSD[~is_pad_BS] = torch.cat(weights)
    y_SBD, reports = stack(x_BSD.transpose(0, 1).to(device), tokens)
    y_BSD = y_SBD.transpose(0, 1).cpu()
    losses = [r.balance_loss_V.cpu() for r in reports if r.balance_loss_V is not None]
    loss = (y_BSD * weight_BSD).sum() + 0.3 * sum(loss_V.sum() for loss_V in losses)
    loss.backward()

    rows = y_BSD.detach()[~is_pad_BS].split([len(x) for x in inputs])
    return StackRun(
        outputs=_from_all(list(rows)),
        balance_losses=[torch.stack(_from_all(list(loss_V.detach()))) for loss_V in losses],
        input_grads=_from_all([x.grad for x in inputs]),
        grads={name: _whole_grad(p, topology) for name, p in stack.named_parameters()},
        sums=[sum(_from_all([gather_sums([report])[0].cpu()])) for report in reports],
    )


def _whole_grad(parameter: Tensor, topology: Topology) -> Tensor | None:
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if hasattr(parameter, "expert"):
        return gather_experts(grad, topology)
    grad = grad.cpu().clone()
    if topology.num_processes > 1:
        dist.all_reduce(grad)
    return grad
