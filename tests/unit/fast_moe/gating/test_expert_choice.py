"""Experts that choose tokens: what they take in training, what they learn, and what after it."""

from argparse import Namespace

import pytest
import torch

from tests.support.models import LENGTHS, WIDE, build_model, learned, loss_of, make_batch
from user_dir.errors import UserError
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.gating.expert_choice import ExpertChoiceGate
from user_dir.fast_moe.gating.gates import InReach
from user_dir.fast_moe.layout.reach import Reach
from user_dir.fast_moe.routing.capacity import CapacityRule
from user_dir.training.metrics import moe_logging_output
from user_dir.transformer.checks import check_expert_choice

BY_EXPERT = {"moe_expert_choice": True}
NUM_EXPERTS = 8


def make_gate(*, factor: float = 1.0, fraction: float = 0.0) -> ExpertChoiceGate:
    rule = CapacityRule(top_k=2, factor=factor, evaluation_fraction=fraction, by_expert=True)
    return ExpertChoiceGate(
        rule=rule, reaches=(Reach.GLOBAL,), dim=4, num_experts=NUM_EXPERTS
    ).double()


def route(gate, z_VTE, *, lengths, update=None):
    is_pad_VT = torch.arange(z_VTE.shape[1]) >= torch.tensor(lengths).unsqueeze(-1)
    experts_VE = torch.arange(NUM_EXPERTS).expand(len(z_VTE), -1)
    within = InReach(Reach.GLOBAL, experts_VE, micro_batch=update)
    return gate.route(z_VTE, is_pad_VT, within, capacity=None).routing


@pytest.mark.parametrize(
    ("factor", "taken"), [(1.0, [5, 0, 1]), (1.1, [6, 0, 1]), (0.2, [1, 0, 1]), (9.0, [20, 0, 2])]
)
def test_every_expert_takes_its_share_of_every_ranks_tokens(factor, taken):
    """⌈2 · T · factor / 8⌉ of 20, 0 and 2 tokens, and no padding."""
    z_VTE = torch.randn(3, 20, NUM_EXPERTS, dtype=torch.float64)
    routing = route(make_gate(factor=factor).train(), z_VTE, lengths=[20, 0, 2])
    assert routing.counts_VE.tolist() == [[n] * NUM_EXPERTS for n in taken]
    assert routing.num_tokens_V.tolist() == [20, 0, 2]
    assert (routing.expert_ids_VTK[2, 2:] == -1).all()


def test_after_training_experts_take_about_as_many_tokens_each_judged_by_itself():
    generator = torch.Generator().manual_seed(1)
    liked_E = torch.linspace(0, 1, NUM_EXPERTS)

    def draw(num_tokens: int):
        noise = torch.randn(2, num_tokens, NUM_EXPERTS, generator=generator, dtype=torch.float64)
        return 1.5 * noise + liked_E

    gate = make_gate().train()
    for update in range(40):
        route(gate, draw(60), lengths=[60, 45], update=update)
        gate.thresholds["global"].move(gate.thresholds["global"].take_sums(torch.device("cpu")))
    gate.eval()
    z_VTE = draw(2000)
    routing = route(gate, z_VTE, lengths=[2000, 2000])
    share_E = routing.counts_VE.sum(0) / 4000
    torch.testing.assert_close(share_E, torch.full((NUM_EXPERTS,), 0.25), rtol=0.1, atol=0)
    alone = route(gate, z_VTE[:1, 700:701], lengths=[1])
    assert torch.equal(alone.expert_ids_VTK, routing.expert_ids_VTK[:1, 700:701])


@pytest.mark.parametrize("fraction", [0.0, -1.0])
def test_where_nothing_was_learned_or_evaluation_is_as_training_shares_are_taken(fraction):
    gate = make_gate(fraction=fraction).train()
    z_VTE = torch.randn(2, 12, NUM_EXPERTS, dtype=torch.float64)
    in_training = route(gate, z_VTE, lengths=[12, 9])
    assert not gate.thresholds["global"].running_weight_E.any()
    if fraction:
        gate.thresholds["global"].running_weight_E.fill_(1)
        gate.thresholds["global"].running_threshold_E.fill_(2)  # that none would reach
    after = route(gate.eval(), z_VTE, lengths=[12, 9])
    assert torch.equal(after.slots_VTK, in_training.slots_VTK)


def test_the_encoder_has_no_balance_loss_and_logs_what_says_something():
    model = learned(build_model(**{**WIDE, **BY_EXPERT})).train()
    net_input, target = make_batch(LENGTHS)
    reports = model(**net_input)[1]["moe_reports"]
    assert [r.balance_loss_V is None for r in reports] == [True, True, False, False]
    ((key, _),) = moe_logging_output(reports).items()
    assert [part.partition("=")[2] for part in key.split(":")[1].split(",")] == [
        *("plain/experts", "plain/experts", "plain", "plain"),
    ]
    loss_of(model, net_input, target).backward()
    gates = {n: p.grad for n, p in model.named_parameters() if "gate.projection" in n}
    assert all(grad.abs().sum() > 0 for grad in gates.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_moe_freq": 0}, "choose by tokens that are not written yet; but --encoder-moe"),
        ({"capacity_factor": 0.0}, "an even share of the tokens, but that is 0"),
        ({"moe_limit_nodes": 1}, "--moe-limit-nodes does not go with --moe-expert-choice"),
        ({"decoder_moe_freq": 0, "moe_balance": "bias"}, "--moe-balance, --moe-balance-scope and"),
    ],
)
def test_what_experts_that_choose_cannot_do_is_refused(options, message):
    config = MoeConfig.from_args(
        Namespace(**{"moe_freq": 2, "moe_expert_count": 8, **BY_EXPERT, **options})
    )
    with pytest.raises(UserError, match=message):
        check_expert_choice(config)
