"""What options of gates do over several updates, and which of them are refused together."""

from argparse import Namespace

import pytest
import torch

from tests.support.models import LENGTHS, WIDE, build_model, learned, loss_of, make_batch
from user_dir.errors import UserError
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.experts.shared import budget_loss
from user_dir.fast_moe.gating.balance import z_loss
from user_dir.fast_moe.gating.bias import ExpertBias
from user_dir.fast_moe.gating.dropout import GatingDropout
from user_dir.fast_moe.tokens.noise import NoiseKey


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moe_gate": "sigmoid", "moe_top1_expert": True}, "--moe-gate sigmoid does not go with"),
        (
            {"moe_balance": "bias", "moe_second_expert_policy": "sampling"},
            "sampling does not go with --moe-balance bias",
        ),
        ({"moe_gating_dropout_skip": True}, "needs --moe-gating-dropout"),
        ({"moe_gating_dropout": 1.0}, "--moe-gating-dropout must be from 0 to below 1"),
        ({"moe_topology_shares": "0.5,0.5"}, "three shares above 0 that add up to 1"),
        ({"moe_topology_shares": "0.5,0.4,0.2"}, "three shares above 0 that add up to 1"),
        ({"moe_topology_shares": "0.5,0.3,0.2", "moe_balance": "none"}, "--moe-balance loss"),
        ({"moe_limit_nodes": 0}, "--moe-limit-nodes must be at least 1"),
        ({"moe_z_loss_wt": -1.0}, "--moe-z-loss-wt must be 0 or more"),
        ({"moe_eom": 1.0}, "--moe-eom must be from 0 to below 1"),
        ({"moe_cmr_dropout": 0.2}, "--moe-cmr-dropout needs --moe-cmr"),
        ({"moe_cmr": True, "moe_cmr_budget": 1.5}, "--moe-cmr-budget must be a share"),
    ],
)
def test_what_cannot_go_together_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        MoeConfig.from_args(Namespace(moe_freq=2, moe_expert_count=8, **options))


def test_shares_by_distance_need_distances():
    with pytest.raises(UserError, match="the layout is 1 nodes x 4 ranks"):
        build_model(
            **{
                **WIDE,
                "moe_topology_shares": "0.5,0.3,0.2",
                "moe_nodes": 1,
                "moe_ranks_per_node": 4,
            }
        )


def test_a_node_limit_needs_two_experts_a_token():
    with pytest.raises(UserError, match="--moe-limit-nodes 1 leaves a token 1 expert"):
        build_model(**{**WIDE, "moe_limit_nodes": 1, "moe_nodes": 8, "moe_ranks_per_node": 1})


def test_the_bias_moves_against_the_load_and_balances_it():
    """Tokens that all like the same two experts spread out, step by step."""
    generator = torch.Generator().manual_seed(1)
    probs_TE = (
        torch.randn(400, 8, generator=generator) + torch.tensor([2.0] * 2 + [0.0] * 6)
    ).softmax(-1)
    bias = ExpertBias(8, step=0.01)
    loads = []
    for _ in range(60):
        chosen = (probs_TE + bias.of(torch.arange(8).unsqueeze(0))[0]).topk(2, dim=-1).indices
        load_E = torch.bincount(chosen.flatten(), minlength=8)
        loads.append(load_E.max() / load_E.double().mean())
        bias.move(load_E.double())
    assert loads[0] > 2.5
    assert loads[-1] < 1.3


def test_the_bias_of_a_model_learns_from_all_its_layers_passes():
    model = learned(build_model(**{**WIDE, "moe_balance": "bias", "moe_bias_update": 0.01}))
    biases = [b for name, b in model.named_buffers() if "running_bias" in name]
    assert len(biases) == 4
    for bias_E in biases:
        assert set((bias_E * 100).round().abs().int().tolist()) <= {0, 1, 2, 3}
        assert bias_E.abs().sum() > 0


def test_without_a_loss_only_the_cross_entropy_is_trained_on():
    net_input, target = make_batch(LENGTHS)
    for balance, is_trained in (("loss", True), ("none", False), ("bias", False)):
        model = build_model(**{**WIDE, "moe_balance": balance}).train()
        reports = model(**net_input)[1]["moe_reports"]
        assert {report.losses.is_trained for report in reports} == {is_trained}
        assert all(report.counted[5] > 0 for report in reports)  # it is logged anyway
        loss_of(model, net_input, target).backward()


def test_the_z_loss_is_the_mean_square_of_logsumexp():
    z_VTE = torch.randn(2, 5, 4, dtype=torch.float64)
    is_pad_VT = torch.zeros(2, 5, dtype=torch.bool)
    is_pad_VT[0, 3:] = True
    is_pad_VT[1] = True
    expected = sum(float(z.exp().sum().log()) ** 2 for z in z_VTE[0, :3]) / 3
    torch.testing.assert_close(
        z_loss(z_VTE, is_pad_VT), torch.tensor([expected, 0.0], dtype=torch.float64)
    )


def test_dropout_takes_its_share_of_updates_and_whole_ones():
    dropout = GatingDropout(0.3)
    on = [dropout.is_on(NoiseKey(seed=1, update=n, micro_batch=0)) for n in range(2000)]
    assert abs(sum(on) / 2000 - 0.3) < 0.04
    for update in range(50):
        assert on[update] == dropout.is_on(NoiseKey(seed=1, update=update, micro_batch=3))
    assert not dropout.is_on(None)


def test_where_dropout_skips_experts_learn_nothing_and_nothing_is_sent():
    options = {"moe_gating_dropout": 0.999, "moe_gating_dropout_skip": True}
    model = build_model(**{**WIDE, **options}).train()
    net_input, target = make_batch(LENGTHS)
    reports = model(**net_input)[1]["moe_reports"]
    assert len(reports) == 4
    for report in reports:
        assert report.known.bytes_between == report.known.bytes_node == report.known.bytes_rank == 0
    loss_of(model, net_input, target).backward()
    experts = [p.grad for p in model.parameters() if hasattr(p, "expert")]
    assert all(grad is None or not grad.abs().sum() for grad in experts)
    model.eval()
    with torch.no_grad():
        assert model(**net_input)[1]["moe_reports"][0].known.bytes_between > 0


def test_the_budget_is_that_of_all_layers_and_draws_the_shares_to_it():
    model = build_model(**{**WIDE, "moe_cmr": True, "moe_cmr_budget": 0.2}).train()
    net_input, _ = make_batch(LENGTHS)
    uses = [r.use for r in model(**net_input)[1]["moe_reports"]]
    loss, size = budget_loss(uses, torch.tensor(7.0))
    mean = sum(float(u.share_sum) for u in uses) / sum(int(u.num_tokens) for u in uses)
    assert float(loss) == pytest.approx(abs(mean - 0.2), abs=1e-6)
    assert size == 7
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        reports = model(**net_input)[1]["moe_reports"]
        loss, _ = budget_loss([r.use for r in reports], torch.tensor(7.0))
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.05
