"""Planned bytes against those that layers report, all ranks hosted in one process."""

from argparse import Namespace

import pytest
import torch

from tests.unit.planning.settings import setting
from user_dir.fast_moe.build import ExpertSizes, MoeParts, build_clustering_layer, build_moe_layer
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.fast_moe.tokens.ranked import rank_tokens
from user_dir.planning.traffic import Peers, passes_of, trips_of

DIM, HIDDEN, TOKENS = 32, 24, 48
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
NARROW = {"scomoe_type": "bottleneck", "moe_exchange_dim": 16}
SMALL = {
    "arch": "scomoe_tiny",
    "encoder_embed_dim": DIM,
    "encoder_ffn_embed_dim": HIDDEN,
    "tokens": TOKENS,
}


def reported(
    layout: Layout,
    num_experts: int,
    kind: LayerKind,
    options: dict,
    *,
    tokens: int = TOKENS,
    noise: NoiseKey | None = None,
):
    """Bytes by distance of a forward pass of an encoder's layer, a mean over ranks."""
    args = Namespace(moe_freq=2, moe_expert_count=num_experts, **options)
    topology = Topology(layout, num_experts=num_experts)
    parts = MoeParts(MoeConfig.from_args(args), topology)
    torch.manual_seed(1)
    sizes = ExpertSizes(DIM, HIDDEN)
    num_ranks = layout.num_ranks
    ranked = rank_tokens(
        torch.zeros(num_ranks, tokens, dtype=torch.bool),
        torch.arange(num_ranks),
        num_hosted=num_ranks,
        noise=noise,
        shares=parts.seq_shares,
    )
    x_VTD = torch.randn(num_ranks, tokens, DIM)
    if kind is LayerKind.CLUSTER:
        layer = build_clustering_layer(parts, sizes, name="a")
        _, clusters = layer.train().token_clustering_moe(x_VTD, ranked)
        report = clusters.report
    else:
        choose = parts.config.gate.expert_choice
        layer = build_moe_layer(parts, sizes, kind=kind, name="a", experts_choose=choose)
        _, report = layer.train()(x_VTD, ranked)
    known = report.known
    found = (known.bytes_rank, known.bytes_node, known.bytes_between)
    return tuple(value / num_ranks for value in found)


def planned(
    layout: Layout, num_experts: int, kind: LayerKind, options: dict, *, tokens: int = TOKENS
):
    one = planned_setting(layout, num_experts, options, tokens)
    return bytes_of(trips_of(one, one.encoder, kind))


def planned_setting(layout: Layout, num_experts: int, options: dict, tokens: int):
    return setting(
        **{**SMALL, "tokens": tokens},
        moe_nodes=layout.num_nodes,
        moe_ranks_per_node=layout.ranks_per_node,
        moe_expert_count=num_experts,
        **options,
    )


def bytes_of(trips):
    return tuple(map(sum, zip(*(trip.num_bytes for trip in trips), strict=True)))


@pytest.mark.parametrize("kind", ["plain", "seq", "feat", "bottleneck"])
@pytest.mark.parametrize(
    ("layout", "num_experts"),
    [(Layout(2, 2), 4), (Layout(2, 2), 8), (Layout(1, 4), 4), (Layout(4, 1), 8), (Layout(2, 3), 6)],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [{}, {"capacity_factor": 0.6}, {"moe_top1_expert": True}, {"moe_expert_choice": True}],
    ids=str,
)
def test_with_capacities_bytes_are_those_that_the_layer_counts(layout, num_experts, kind, options):
    of_kind = {"plain": {}, "seq": SEQ, "feat": FEAT, "bottleneck": NARROW}[kind]
    case = (layout, num_experts, LayerKind(kind), {**of_kind, **options})
    assert planned(*case) == reported(*case)


@pytest.mark.parametrize("layout", [Layout(2, 3), Layout(3, 2)], ids=str)
def test_copies_of_experts_travel_within_their_block(layout):
    case = (layout, 2, LayerKind.PLAIN, {})
    assert planned(*case) == reported(*case)
    assert Peers.of(layout, 3).in_node + Peers.of(layout, 3).between == 2


@pytest.mark.parametrize("options", [{}, SEQ, FEAT], ids=str)
def test_without_capacities_as_many_bytes_travel(options):
    """Where to depends on the tokens: only the sum is known."""
    kind = LayerKind(options.get("scomoe_type", "plain"))
    # Every token takes its second choice.
    options = {**options, "capacity_factor": 0.0, "moe_second_expert_policy": "all"}
    measured = reported(Layout(2, 2), 8, kind, options)
    del options["moe_second_expert_policy"]
    assert sum(planned(Layout(2, 2), 8, kind, options)) == pytest.approx(sum(measured))


@pytest.mark.parametrize("limit", [None, 1, 2], ids=str)
@pytest.mark.parametrize("layout", [Layout(2, 2), Layout(4, 2)], ids=str)
def test_a_token_goes_once_to_each_node(layout, limit):
    """On the average of choices by chance: gates that were not trained, random tokens."""
    options = {"moe_exchange": "hierarchical", "capacity_factor": 0.0, "moe_limit_nodes": limit}
    case = (layout, 2 * layout.num_ranks, LayerKind.PLAIN)
    measured = reported(*case, {**options, "moe_second_expert_policy": "all"}, tokens=600)
    near, in_node, between = planned(*case, options, tokens=600)
    assert (near + in_node) == pytest.approx(measured[0] + measured[1], rel=1e-9)
    # Two nodes hardly bind the choice of two experts.
    assert between == pytest.approx(measured[2], rel=0.06 if limit == 2 else 0.03)


@pytest.mark.parametrize(("kind", "off"), [("plain", 0.1), ("seq", 0.2)])
def test_experts_that_choose_take_each_token_once_to_a_node(kind, off):
    """A little more than planned: a token that is probable for one expert is less so for others."""
    options = {"moe_exchange": "hierarchical", "moe_expert_choice": True}
    if kind == "seq":  # by thresholds, so that there is a place for every token
        options |= {**SEQ, "scomoe_partition": "threshold"}
    case = (Layout(2, 2), 8, LayerKind(kind), options)
    wanted, found = planned(*case, tokens=600), reported(*case, tokens=600)
    assert wanted[:2] == pytest.approx(found[:2], rel=1e-9)
    assert wanted[2] < found[2] < (1 + off) * wanted[2]


@pytest.mark.parametrize("kind", ["plain", "seq", "feat", "bottleneck"])
@pytest.mark.parametrize(
    "options", [{}, {"moe_expert_choice": True}, {"moe_exchange": "hierarchical"}], ids=str
)
def test_in_updates_of_gating_dropout_tokens_stay(kind, options):
    """A share of all updates, so large that the one drawn here is among them."""
    of_kind = {"plain": {}, "seq": SEQ, "feat": FEAT, "bottleneck": NARROW}[kind]
    options = {**of_kind, **options, "moe_gating_dropout": 0.999}
    case = (Layout(2, 2), 8)
    one = planned_setting(*case, options, TOKENS)
    (leaves, travelling), (stays, staying) = passes_of(one, one.encoder, LayerKind(kind))
    assert (leaves, stays) == (pytest.approx(0.001), 0.999)
    found = reported(*case, LayerKind(kind), options, noise=NoiseKey(1, 1, 0))
    assert bytes_of(staying) == found
    assert found[1:] == (0, 0) and bytes_of(travelling)[2] > 0


def test_in_skipped_updates_and_in_clusters_nothing_changes_places():
    options = {"moe_gating_dropout": 0.25, "moe_gating_dropout_skip": True, "token_cluster": True}
    one = planned_setting(Layout(2, 2), 8, options, TOKENS)
    (_, some), (share, none) = passes_of(one, one.encoder, LayerKind.PLAIN)
    assert some and none == [] and share == 0.25
    assert [share for share, _ in passes_of(one, one.encoder, LayerKind.CLUSTER)] == [1.0]


def test_with_copies_in_every_node_hierarchical_is_direct():
    for exchange in "direct", "hierarchical":
        case = (Layout(2, 2), 2, LayerKind.PLAIN, {"moe_exchange": exchange})
        assert planned(*case) == reported(*case)
        assert planned(*case)[2] == 0


def test_clusters_take_the_bytes_that_the_layer_counts():
    case = (Layout(2, 2), 8, LayerKind.CLUSTER, {"token_cluster": True})
    assert planned(*case) == reported(*case)
