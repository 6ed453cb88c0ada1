"""Law 5: training sees nothing of a sentence that decoding could not see; and what breaks it."""

import pytest
import torch

from tests.support.models import (
    DICTIONARY,
    NUM_SYMBOLS,
    SMALL,
    build_model,
    learned,
    make_batch,
)
from user_dir.fast_moe.tokens.noise import NoiseKey

LENGTHS = [7, 3, 9, 4, 6, 8]
SENTENCE, POSITION = 2, 1  # whose input token is changed
BASE = {
    **SMALL,
    "encoder_embed_dim": 32,
    "capacity_factor": 0.0,
    "moe_second_expert_policy": "all",
}
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
BY_THRESHOLD = {**SEQ, "scomoe_partition": "threshold"}
BY_TOKEN = {"token_cluster": True, "cluster_by": "token"}
CAUSAL = {
    "gshard": {},
    "switch": {"moe_top1_expert": True},
    "feat": FEAT,
    "experts choose in the encoder": {"moe_expert_choice": True, "capacity_factor": 8.0},
    "bottleneck": {"scomoe_type": "bottleneck", "moe_exchange_dim": 8},
    "sigmoid, one node a token, hierarchical": {
        "moe_gate": "sigmoid",
        "moe_limit_nodes": 1,
        "moe_exchange": "hierarchical",
    },
    "bias, masks, shared expert": {
        "moe_balance": "bias",
        "moe_eom": 0.2,
        "moe_fom": 0.1,
        "moe_shared_expert_ffn_dim": 24,
    },
    "conditional routing, gating dropout": {
        "moe_cmr": True,
        "moe_cmr_dropout": 0.2,
        "moe_gating_dropout": 0.999,
    },
    "seq by threshold": BY_THRESHOLD,
    "clusters by token": BY_TOKEN,
    "clusters by language": {"token_cluster": True, "cluster_by": "language"},
    "clusters by token, seq by threshold": {**BY_TOKEN, **BY_THRESHOLD},
    "clusters by token, feat": {**BY_TOKEN, **FEAT},
}
LEAKING = {
    "seq by quota": SEQ,
    "clusters by scores": {"token_cluster": True},
    "clusters by centroid": {"token_cluster": True, "cluster_by": "kmeans", "cluster_warmup": 0},
    "capacities, second choices after all first ones": {"capacity_factor": 0.5},
}


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
def test_in_training_nothing_depends_on_later_tokens(options):
    assert largest_leak(options) < 1e-12


@pytest.mark.parametrize("options", LEAKING.values(), ids=LEAKING)
def test_what_compares_the_tokens_of_a_batch_leaks_from_later_ones(options):
    assert largest_leak(options) > 1e-6


def largest_leak(options) -> float:
    """How much decoder outputs before and elsewhere than at a token change with the token."""
    model = learned(build_model(**{**BASE, **options}).double()).train()
    net_input, _ = make_batch(LENGTHS)
    ranks = torch.tensor([0, 0, 1, 1, 1, 2])
    noise = NoiseKey(seed=1, update=9, micro_batch=0)
    prev = net_input["prev_output_tokens"]
    is_earlier = prev.ne(DICTIONARY.pad())
    is_earlier[SENTENCE, POSITION:] = False
    leaks = []
    with torch.no_grad():
        encoded = model.encoder(
            net_input["src_tokens"], net_input["src_lengths"], sentence_ranks=ranks, noise=noise
        )
        before = model.decoder(prev, encoder_out=encoded, noise=noise)[0]
        for token in range(4, 4 + NUM_SYMBOLS, 3):
            changed = prev.clone()
            changed[SENTENCE, POSITION] = token
            after = model.decoder(changed, encoder_out=encoded, noise=noise)[0]
            leaks.append(float((after - before)[is_earlier].abs().max()))
    assert not torch.allclose(before[SENTENCE, POSITION], after[SENTENCE, POSITION])
    return max(leaks)
