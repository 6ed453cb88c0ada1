"""What holds for every kind of model: cached decoding, independence of the batch, recomputation."""

import pytest
import torch

from tests.support.models import (
    CROSS_AND_SELF,
    DICTIONARY,
    FEAT,
    LENGTHS,
    SEQ,
    WIDE,
    build_model,
    learned,
    loss_of,
    make_batch,
)

CLOSE = {"atol": 1e-6, "rtol": 1e-5}
BY_CENTROID = {"token_cluster": True, "cluster_by": "kmeans", "cluster_warmup": 1}
BY_EXPERT = {"moe_expert_choice": True, "capacity_factor": 1.0}
BOTTLENECK = {"scomoe_type": "bottleneck", "moe_exchange_dim": 16}
VARIANTS = {
    "plain": {},
    "switch": {"moe_top1_expert": True},
    "cross- and self-attention in one": CROSS_AND_SELF,
    "seq": SEQ,
    "feat": FEAT,
    "feat, projection": {**FEAT, "scomoe_feat_projection": True},
    "bottleneck": BOTTLENECK,
    "experts choose": BY_EXPERT,
    "experts choose, cluster, seq": {**BY_EXPERT, "token_cluster": True, **SEQ},
    "experts choose, feat": {**BY_EXPERT, **FEAT},
    "cluster by token, bottleneck": {"token_cluster": True, "cluster_by": "token", **BOTTLENECK},
    "reordered": {"reorder_layers": True},
    "cluster": {"token_cluster": True},
    "cluster, sigmoid": {"token_cluster": True, "gate_type": "sigmoid"},
    "cluster alone": {"token_cluster": True, "encoder_layers": 2, "decoder_layers": 2},
    "cluster, seq": {"token_cluster": True, **SEQ},
    "cluster, feat": {"token_cluster": True, **FEAT},
    "cluster, switch": {"token_cluster": True, **SEQ, "moe_top1_expert": True},
    "seq by threshold": {**SEQ, "scomoe_partition": "threshold"},
    "cluster by token, seq": {"token_cluster": True, "cluster_by": "token", **SEQ},
    "cluster by language, feat": {"token_cluster": True, "cluster_by": "language", **FEAT},
    "cluster by centroid, seq": {**BY_CENTROID, **SEQ},
    "cluster by centroid, switch": {**BY_CENTROID, "moe_top1_expert": True},
    "sigmoid, one node a token, hierarchical": {
        "moe_gate": "sigmoid",
        "moe_limit_nodes": 1,
        "moe_exchange": "hierarchical",
    },
    "bias, masks, z-loss, seq": {
        "moe_balance": "bias",
        "moe_eom": 0.2,
        "moe_fom": 0.1,
        "moe_z_loss_wt": 0.01,
        **SEQ,
    },
    "conditional routing, shares by distance": {
        "moe_cmr": True,
        "moe_topology_shares": "0.5,0.3,0.2",
    },
    "shared expert, gating dropout": {"moe_shared_expert_ffn_dim": 24, "moe_gating_dropout": 0.5},
    "norm after": {"token_cluster": True, **SEQ, "layernorm_after_moe_layer": True},
}
# Balanced by step, so that a step of decoding sees the tokens that it is balanced with.
BALANCED = {"token_cluster": True, "scomoe_inference_routing": "balanced"}
BY_STEP = {"balanced, seq": {**BALANCED, **SEQ}, "balanced, feat": {**BALANCED, **FEAT}}


@pytest.mark.parametrize("options", {**VARIANTS, **BY_STEP}.values(), ids={**VARIANTS, **BY_STEP})
def test_cached_decoding_equals_the_full_forward_pass(options):
    model = learned(build_model(**{**WIDE, **options}).double()).eval()
    net_input, _ = make_batch(LENGTHS)
    prev = net_input["prev_output_tokens"]
    with torch.no_grad():
        encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        full, _ = model.decoder(prev, encoder_out=encoder_out)
        cache: dict = {}
        for step in range(prev.shape[1]):
            logits, _ = model.decoder(
                prev[:, : step + 1], encoder_out=encoder_out, incremental_state=cache
            )
            is_real = prev[:, step] != DICTIONARY.pad()
            torch.testing.assert_close(logits[is_real, -1], full[is_real, step], **CLOSE)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_sentence_does_not_depend_on_its_batch(options):
    model = learned(build_model(**{**WIDE, **options}).double()).eval()
    net_input, _ = make_batch(LENGTHS)
    with torch.no_grad():
        together = model.decoder(
            net_input["prev_output_tokens"],
            encoder_out=model.encoder(net_input["src_tokens"], net_input["src_lengths"]),
        )[0]
        for i, length in enumerate(LENGTHS):
            src = net_input["src_tokens"][i : i + 1, -length:]
            prev = net_input["prev_output_tokens"][i : i + 1, : LENGTHS[::-1][i]]
            alone = model.decoder(prev, encoder_out=model.encoder(src))[0]
            torch.testing.assert_close(together[i : i + 1, : prev.shape[1]], alone, **CLOSE)


@pytest.mark.parametrize("capacity_factor", [0.5, 0])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_recomputed_activations_give_the_same_gradients(options, pre_norm, capacity_factor):
    options = {**WIDE, "dropout": 0.2, "capacity_factor": capacity_factor, **options}
    options |= {"encoder_normalize_before": pre_norm, "decoder_normalize_before": pre_norm}
    net_input, target = make_batch(LENGTHS)
    grads, states = [], []
    for recompute in (False, True):
        model = learned(build_model(**options, checkpoint_activations=recompute)).train()
        torch.manual_seed(3)
        loss_of(model, net_input, target).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
        model.end_update()
        states.append({name: b for name, b in model.named_buffers() if "running_" in name})
    for name, state in states[0].items():  # which computing a layer again does not move
        torch.testing.assert_close(states[1][name], state, atol=1e-6, rtol=1e-5)
    for name, grad in grads[0].items():
        assert grad is not None, name
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)
        assert name.endswith("bias") or grad.abs().sum() > 0, f"nothing learns {name}"
