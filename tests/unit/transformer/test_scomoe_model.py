"""SCoMoE in the model: cached decoding, independence of the batch, recomputation, refusals."""

import re

import pytest
import torch

from tests.support.models import DICTIONARY, SMALL, build_model, loss_of, make_batch
from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.transformer.layer_order import DenseLayer, order_layers

LENGTHS = [7, 3, 9, 4, 6, 2]
BASE = {**SMALL, "encoder_embed_dim": 32}
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
EVERYWHERE = {"ratio1": 0.0, "ratio2": 0.0}
VARIANTS = {
    "seq": SEQ,
    "feat": FEAT,
    "feat, projection": {**FEAT, "scomoe_feat_projection": True},
    "reordered": {"reorder_layers": True},
    "cluster": {"token_cluster": True},
    "cluster, sigmoid": {"token_cluster": True, "gate_type": "sigmoid"},
    "cluster alone": {"token_cluster": True, "encoder_layers": 2, "decoder_layers": 2},
    "cluster, seq": {"token_cluster": True, **SEQ},
    "cluster, feat": {"token_cluster": True, **FEAT},
    "cluster, switch": {"token_cluster": True, **SEQ, "moe_top1_expert": True},
    "norm after": {"token_cluster": True, **SEQ, "layernorm_after_moe_layer": True},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_cached_decoding_equals_the_full_forward_pass(options):
    _check_cached_decoding(options)


@pytest.mark.parametrize("options", [SEQ, FEAT], ids=["seq", "feat"])
def test_cached_decoding_equals_the_full_pass_with_balanced_clusters(options):
    # Balanced by step, so that a step of decoding sees the tokens that it is balanced with.
    balanced = {"token_cluster": True, "scomoe_inference_routing": "balanced"}
    _check_cached_decoding({**balanced, **options})


def _check_cached_decoding(options):
    model = build_model(**{**BASE, **options}).double().eval()
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
            torch.testing.assert_close(
                logits[is_real, -1], full[is_real, step], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_sentence_does_not_depend_on_its_batch(options):
    model = build_model(**{**BASE, **options}).double().eval()
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
            torch.testing.assert_close(
                together[i : i + 1, : prev.shape[1]], alone, atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("pre_norm", [True, False])
def test_recomputed_activations_give_the_same_gradients(options, pre_norm):
    options = {**BASE, "dropout": 0.2, "capacity_factor": 0.5, **options}
    options |= {"encoder_normalize_before": pre_norm, "decoder_normalize_before": pre_norm}
    net_input, target = make_batch(LENGTHS)
    grads = []
    for recompute in (False, True):
        model = build_model(**options, checkpoint_activations=recompute).train()
        torch.manual_seed(3)
        loss_of(model, net_input, target).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert grad is not None, name
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)
        assert name.endswith("bias") or grad.abs().sum() > 0, f"nothing learns {name}"


def test_the_named_orders_of_layers():
    model = build_model(**{**BASE, "token_cluster": True, **SEQ})
    encoder = model.encoder
    kinds = [type(layer).__name__ for layer in encoder.layers]
    assert kinds == ["TransformerEncoderLayerBase"] * 2 + ["EncoderAttentionLayer"] * 2
    assert encoder.tail.clustering.moe.kind is LayerKind.CLUSTER
    assert [layer.moe.kind for layer in encoder.tail.layers] == [LayerKind.SEQ]
    plain = build_model(**{**BASE, **SEQ}).moe_parts.config
    assert order_layers(plain, stack="decoder", num_layers=8).layers == (
        *(DenseLayer.FULL, LayerKind.PLAIN, DenseLayer.FULL, LayerKind.SEQ),
        *(DenseLayer.FULL, LayerKind.SEQ, DenseLayer.FULL, LayerKind.SEQ),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio1": 1.2}, "--ratio1 must be a share from 0 to 1"),
        ({**SEQ, "ratio2": 0.9}, "--ratio2 0.8 would do"),
        ({**FEAT, "ratio1": 0.3}, "--ratio1 0.25 --ratio2 0.5 would do"),
        ({**SEQ, "moe_expert_count": 2}, "--moe-expert-count is 2 for 4 logical ranks"),
        ({"token_cluster": True, "moe_expert_count": 2}, "4 would do"),
        (
            {"token_cluster": True, "encoder_layers": 5},
            "--encoder-layers is 5; 4 or 6 would do",
        ),
        ({"reorder_layers": True, "decoder_layers": 3}, "--decoder-layers is 3; 2 or 4 would do"),
        ({"token_cluster": True, "moe_freq": 1}, "--moe-freq 2 would do"),
        ({**SEQ, "encoder_layers": 2, "decoder_layers": 2}, "would be used in no layer"),
        ({"scomoe_type": "sequence"}, "--scomoe-type must be one of none, seq, feat"),
        ({"gate_type": "tanh"}, "--gate-type must be one of softmax, sigmoid"),
        ({"token_cluster": True, "temperature": 0.0}, "--temperature must be positive"),
        ({"token_cluster": True, "temperature": float("inf")}, "--temperature must be positive"),
        ({"temperature": float("nan")}, "--temperature must be positive"),
        ({"capacity_factor": float("inf")}, "--capacity-factor must be 0"),
        ({"capacity_factor": float("nan")}, "--capacity-factor must be 0"),
        ({"scomoe_inference_routing": "best"}, "--scomoe-inference-routing must be one of"),
    ],
)
def test_wrong_options_are_refused_with_what_would_do(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build_model(**{**BASE, **options})


def test_a_type_that_one_stack_uses_is_accepted():
    model = build_model(**{**BASE, **SEQ, "decoder_layers": 2})
    kinds = {
        stack: [m.kind for m in getattr(model, stack).modules() if isinstance(m, EfficientMoeLayer)]
        for stack in ("encoder", "decoder")
    }
    assert kinds == {"encoder": [LayerKind.PLAIN, LayerKind.SEQ], "decoder": [LayerKind.PLAIN]}


def test_by_quota_a_sentence_of_seq_depends_on_its_batch():
    """What the default avoids; a test that could not tell would prove nothing."""
    model = build_model(**{**BASE, **SEQ, "scomoe_inference_partition": "quota"}).double().eval()
    net_input, _ = make_batch(LENGTHS)
    with torch.no_grad():
        together = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        alone = model.encoder(net_input["src_tokens"][:1], net_input["src_lengths"][:1])
    alone_SD, together_SD = (out["encoder_out"][0][:, 0] for out in (alone, together))
    assert not torch.allclose(together_SD[-len(alone_SD) :], alone_SD)


def groups_of(model) -> int:
    return model.encoder.tail.clustering.moe.gate.num_groups


def test_clusters_are_as_trained_whatever_the_ratios_are_at_evaluation():
    trained = build_model(**{**BASE, "token_cluster": True, **SEQ})
    assert groups_of(trained) == 8
    kept = {"moe_cluster_groups": trained.args.moe_cluster_groups}
    at_evaluation = build_model(**{**BASE, "token_cluster": True, **SEQ, **EVERYWHERE, **kept})
    assert groups_of(at_evaluation) == 8
    at_evaluation.load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    ("options", "groups"),
    [({}, 8), (SEQ, 8), ({**SEQ, **EVERYWHERE}, 2), ({**SEQ, "ratio1": 0.0, "ratio2": 1.0}, 8)],
    ids=str,
)
def test_there_is_a_cluster_a_node_only_where_scomoe_keeps_nothing_on_a_rank(options, groups):
    assert groups_of(build_model(**{**BASE, "token_cluster": True, **options})) == groups


def test_an_older_checkpoint_that_clustered_by_node_without_scomoe_still_does():
    # Its options hold the resolved layout, as those of every checkpoint, but no clusters.
    older = {**BASE, "token_cluster": True, "moe_layout_given": True}
    assert groups_of(build_model(**older)) == 2


def test_seq_ratios_may_change_at_evaluation():
    trained = build_model(**{**BASE, **SEQ})
    net_input, _ = make_batch(LENGTHS)
    plain = build_model(
        **{**BASE, **SEQ, **EVERYWHERE, "scomoe_inference_partition": "quota"}, seed=5
    )
    plain.load_state_dict(trained.state_dict())
    reports = plain.eval()(**net_input)[1]["moe_reports"]
    gshard = build_model(**BASE, seed=6)
    gshard.load_state_dict(trained.state_dict())
    torch.testing.assert_close(plain(**net_input)[0], gshard.eval()(**net_input)[0])
    assert len(reports) == 4


def test_feat_ratios_may_not():
    trained = build_model(**{**BASE, **FEAT})
    other = build_model(**{**BASE, **FEAT, "ratio1": 0.5, "ratio2": 0.25})
    with pytest.raises(
        UserError, match=r"--ratio1 0\.25 --ratio2 0\.5, but --ratio1 0\.5 --ratio2"
    ):
        other.load_state_dict(trained.state_dict())
    same = build_model(**{**BASE, **FEAT}, seed=4)
    same.load_state_dict(trained.half().state_dict())
