"""SCoMoE in the model: orders of layers, clusters, what may change after training, refusals."""

import re

import pytest
import torch

from tests.support.models import FEAT, LENGTHS, SEQ, WIDE, build_model, make_batch
from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.moe import EfficientMoeLayer
from user_dir.transformer.layer_order import DenseLayer, order_layers

BOTTLENECK = {"scomoe_type": "bottleneck", "moe_exchange_dim": 16}
EVERYWHERE = {"ratio1": 0.0, "ratio2": 0.0}


def test_the_named_orders_of_layers():
    model = build_model(**{**WIDE, "token_cluster": True, **SEQ})
    encoder = model.encoder
    kinds = [type(layer).__name__ for layer in encoder.layers]
    assert kinds == ["TransformerEncoderLayerBase"] * 2 + ["EncoderAttentionLayer"] * 2
    assert encoder.tail.clustering.moe.kind is LayerKind.CLUSTER
    assert [layer.moe.kind for layer in encoder.tail.layers] == [LayerKind.SEQ]
    plain = build_model(**{**WIDE, **SEQ}).moe_parts.config
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
        ({"scomoe_type": "bottleneck"}, "--moe-exchange-dim, the features that travel, go"),
        ({"moe_exchange_dim": 8}, "--scomoe-type bottleneck and --moe-exchange-dim"),
        ({**BOTTLENECK, "moe_exchange_dim": 12}, "--moe-exchange-dim (12) must be a multiple of 8"),
        ({**BOTTLENECK, "moe_exchange_dim": 32}, "that divides 32 x 24, the width times"),
        ({**BOTTLENECK, "moe_exchange_dim": 40}, "an expert; 24 would do"),
        ({**BOTTLENECK, "ratio1": 0.5}, "--ratio1 0.5 has no effect without --scomoe-type seq"),
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
        build_model(**{**WIDE, **options})


def test_a_type_that_one_stack_uses_is_accepted():
    model = build_model(**{**WIDE, **SEQ, "decoder_layers": 2})
    kinds = {
        stack: [m.kind for m in getattr(model, stack).modules() if isinstance(m, EfficientMoeLayer)]
        for stack in ("encoder", "decoder")
    }
    assert kinds == {"encoder": [LayerKind.PLAIN, LayerKind.SEQ], "decoder": [LayerKind.PLAIN]}


def test_by_quota_a_sentence_of_seq_depends_on_its_batch():
    """What the default avoids; a test that could not tell would prove nothing."""
    model = build_model(**{**WIDE, **SEQ, "scomoe_inference_partition": "quota"}).double().eval()
    net_input, _ = make_batch(LENGTHS)
    with torch.no_grad():
        together = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        alone = model.encoder(net_input["src_tokens"][:1], net_input["src_lengths"][:1])
    alone_SD, together_SD = (out["encoder_out"][0][:, 0] for out in (alone, together))
    assert not torch.allclose(together_SD[-len(alone_SD) :], alone_SD)


def groups_of(model) -> int:
    return model.encoder.tail.clustering.moe.gate.num_groups


def test_clusters_are_as_trained_whatever_the_ratios_are_at_evaluation():
    trained = build_model(**{**WIDE, "token_cluster": True, **SEQ})
    assert groups_of(trained) == 8
    kept = {"moe_cluster_groups": trained.args.moe_cluster_groups}
    at_evaluation = build_model(**{**WIDE, "token_cluster": True, **SEQ, **EVERYWHERE, **kept})
    assert groups_of(at_evaluation) == 8
    at_evaluation.load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    ("options", "groups"),
    [({}, 8), (SEQ, 8), ({**SEQ, **EVERYWHERE}, 2), ({**SEQ, "ratio1": 0.0, "ratio2": 1.0}, 8)],
    ids=str,
)
def test_there_is_a_cluster_a_node_only_where_scomoe_keeps_nothing_on_a_rank(options, groups):
    assert groups_of(build_model(**{**WIDE, "token_cluster": True, **options})) == groups


def test_an_older_checkpoint_that_clustered_by_node_without_scomoe_still_does():
    # Its options hold the resolved layout, as those of every checkpoint, but no clusters.
    older = {**WIDE, "token_cluster": True, "moe_layout_given": True}
    assert groups_of(build_model(**older)) == 2


def test_seq_ratios_may_change_at_evaluation():
    trained = build_model(**{**WIDE, **SEQ})
    net_input, _ = make_batch(LENGTHS)
    plain = build_model(
        **{**WIDE, **SEQ, **EVERYWHERE, "scomoe_inference_partition": "quota"}, seed=5
    )
    plain.load_state_dict(trained.state_dict())
    reports = plain.eval()(**net_input)[1]["moe_reports"]
    gshard = build_model(**WIDE, seed=6)
    gshard.load_state_dict(trained.state_dict())
    torch.testing.assert_close(plain(**net_input)[0], gshard.eval()(**net_input)[0])
    assert len(reports) == 4


def test_feat_ratios_may_not():
    trained = build_model(**{**WIDE, **FEAT})
    other = build_model(**{**WIDE, **FEAT, "ratio1": 0.5, "ratio2": 0.25})
    with pytest.raises(
        UserError, match=r"--ratio1 0\.25 --ratio2 0\.5, but --ratio1 0\.5 --ratio2"
    ):
        other.load_state_dict(trained.state_dict())
    same = build_model(**{**WIDE, **FEAT}, seed=4)
    same.load_state_dict(trained.half().state_dict())


def test_a_bottleneck_keeps_the_weights_of_the_experts_and_every_layer_has_one():
    plain, narrow = (build_model(**{**WIDE, **options}) for options in ({}, BOTTLENECK))

    def count(model, name):
        return sum(p.numel() for n, p in model.named_parameters() if n.endswith(name))

    for name in ("weight1_LDH", "weight2_LHD"):
        assert count(narrow, name) == count(plain, name)
    layers = [m for m in narrow.modules() if isinstance(m, EfficientMoeLayer)]
    assert [layer.kind for layer in layers] == [LayerKind.BOTTLENECK] * 4
    assert narrow.encoder.layers[1].feed_forward.moe.experts.weight1_LDH.shape == (8, 16, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**BOTTLENECK, "moe_exchange_dim": 8}, "the --moe-exchange-dim that it was trained with"),
        ({}, "the --scomoe-type and the --moe-exchange-dim"),
    ],
    ids=str,
)
def test_a_bottleneck_of_another_width_is_not_loaded(options, message):
    trained = build_model(**{**WIDE, **BOTTLENECK})
    with pytest.raises(UserError, match=message):
        build_model(**{**WIDE, **options}).load_state_dict(trained.state_dict())
