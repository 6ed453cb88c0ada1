"""The balance loss over all ranks equals a loop over their tokens, in value and gradient."""

import torch

from tests.support.stack_cases import CASES
from tests.support.stacks import build_stack
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.gating.balance import balance_over_all_ranks
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.tokens.partition import REACH_IDS
from user_dir.fast_moe.tokens.ranked import rank_tokens

CASE = next(case for case in CASES if case.name == "seq, ragged")


def test_it_is_the_mean_over_reaches_of_e_times_the_products_of_means():
    topology = Topology(Layout(*CASE.layout), num_experts=8)
    stack = build_stack(CASE, topology)
    layer = next(m.moe for m in stack.layers if m.moe.kind is LayerKind.SEQ)
    layer.balance.everywhere = True
    lengths = torch.tensor(CASE.tokens_of_rank)
    is_pad_BS = torch.arange(int(lengths.max())) >= lengths.unsqueeze(-1)
    tokens = rank_tokens(is_pad_BS, torch.arange(4), num_hosted=4, shares=layer.shares)
    generator = torch.Generator().manual_seed(3)
    x_VTD = torch.randn(*tokens.is_pad_VT.shape, 32, generator=generator, dtype=torch.float64)
    _, report = layer(x_VTD, tokens)
    losses, size = balance_over_all_ranks([report.losses.gate_sums], torch.tensor(5.0))
    (gradient,) = torch.autograd.grad(losses.sum(), layer.gate.projection.weight)

    weight = layer.gate.projection.weight
    z_VTE = x_VTD @ weight.T
    reach_VT = layer.partition(z_VTE, tokens)
    wanted = []
    for reach in Reach:
        probs, firsts = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        count = 0
        for rank in range(4):
            ids = topology.experts_in(reach, z_VTE.device)[rank]
            for t in range(z_VTE.shape[1]):
                if reach_VT[rank, t] == REACH_IDS[reach]:
                    g = z_VTE[rank, t, ids].softmax(-1)
                    probs = probs.index_add(0, ids, g)
                    firsts[ids[g.argmax()]] += 1
                    count += 1
        wanted.append(8 * (probs / count * firsts / count).sum())
    expected = sum(wanted) / 3
    torch.testing.assert_close(losses, expected.detach().view(1), atol=1e-12, rtol=0)
    (expected_gradient,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-9)
    assert size == 5
