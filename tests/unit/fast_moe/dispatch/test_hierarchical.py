"""What a hierarchical exchange spares, and which layouts it is refused for."""

from argparse import Namespace

import pytest
import torch

from user_dir.errors import UserError
from user_dir.fast_moe.build import ExpertSizes, MoeParts, build_moe_layer
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.transformer.checks import check_scomoe_layout

TOKENS, DIM = 128, 256


def config_of(*, num_experts: int, **options) -> MoeConfig:
    options = {"moe_freq": 2, "moe_expert_count": num_experts, "capacity_factor": 0.0, **options}
    return MoeConfig.from_args(Namespace(**options))


def bytes_between(num_nodes: int, **options) -> float:
    """Of a layer's forward pass, dropless; any two experts are as likely as any others."""
    topology = Topology(Layout(num_nodes, 2), num_experts=64)
    torch.manual_seed(1)
    layer = build_moe_layer(
        MoeParts(config_of(num_experts=64, **options), topology),
        ExpertSizes(DIM, 8),
        kind=LayerKind.PLAIN,
        name="encoder.1",
    )
    num_ranks = topology.num_ranks
    is_pad_BS = torch.zeros(num_ranks, TOKENS, dtype=torch.bool)
    tokens = rank_tokens(is_pad_BS, torch.arange(num_ranks), num_hosted=num_ranks)
    with torch.no_grad():
        torch.nn.init.orthogonal_(layer.gate.projection.weight)
        x_VTD = torch.randn(num_ranks, TOKENS, DIM)
        _, report = layer(x_VTD, tokens)
    return report.known.bytes_between


@pytest.mark.parametrize("num_nodes", [2, 4, 8])
@pytest.mark.parametrize("limit", [None, 1])
def test_of_two_experts_on_a_node_one_is_free(num_nodes, limit):
    """With N nodes a token has rows for 2 (N - 1) / N choices elsewhere; nodes without either of
    two independent choices are a share ((N - 1) / N)² of the N - 1."""
    direct = bytes_between(num_nodes, moe_limit_nodes=limit)
    spared = bytes_between(num_nodes, moe_limit_nodes=limit, moe_exchange="hierarchical") / direct
    away = (num_nodes - 1) / num_nodes
    expected = 0.5 if limit == 1 else (num_nodes - 1) * (1 - away**2) / (2 * away)
    assert spared == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("layout", "num_experts"), [((2, 2), 8), ((4, 2), 4), ((4, 4), 2), ((1, 4), 8), ((2, 3), 3)]
)
def test_whole_nodes_or_parts_of_one_hold_every_expert(layout, num_experts):
    config = config_of(num_experts=num_experts, moe_exchange="hierarchical")
    check_scomoe_layout(config, Layout(*layout))


@pytest.mark.parametrize(("layout", "num_experts"), [((2, 3), 2), ((3, 4), 6)])
def test_a_copy_of_the_experts_that_splits_a_node_is_refused(layout, num_experts):
    config = config_of(num_experts=num_experts, moe_exchange="hierarchical")
    with pytest.raises(UserError, match="--moe-exchange hierarchical needs whole nodes"):
        check_scomoe_layout(config, Layout(*layout))
