"""The model around the layers: fairseq's own without mixtures, ranks of sentences, options."""

import pytest
import torch

from tests.support.models import (
    CROSS_AND_SELF,
    DICTIONARY,
    LENGTHS,
    SMALL,
    build_model,
    loss_of,
    make_batch,
)
from user_dir.errors import UserError
from user_dir.fast_moe.experts.ffn import ExpertFFN


@pytest.mark.parametrize("share_all", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_without_mixtures_the_model_is_fairseqs_transformer(share_all, pre_norm):
    options = {
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "share_all_embeddings": share_all,
        "encoder_normalize_before": pre_norm,
        "decoder_normalize_before": pre_norm,
        "dropout": 0.3,
    }
    ours, stock = build_model("scomoe", **options), build_model("transformer", **options)
    assert list(ours.state_dict()) == list(stock.state_dict())
    net_input, target = make_batch(LENGTHS)
    losses = []
    for model in (ours, stock):
        torch.manual_seed(3)
        losses.append(loss_of(model.train(), net_input, target))
        losses[-1].backward()
    assert losses[0].item() == losses[1].item()
    for (name, mine), (_, theirs) in zip(
        ours.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
        assert torch.equal(mine.grad, theirs.grad), name


def test_reordered_sentences_keep_their_ranks():
    model = build_model(**SMALL).eval()
    net_input, _ = make_batch(LENGTHS)
    encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    order = torch.tensor([2, 2, 0, 5])
    reordered = model.encoder.reorder_encoder_out(encoder_out, order)
    expected = net_input["src_tokens"].masked_fill(net_input["src_tokens"] == DICTIONARY.pad(), 0)
    assert torch.equal(reordered["sentence_ranks"][0], expected.sum(1)[order] % 4)


def test_a_batch_of_a_stock_task_is_divided_evenly_and_in_order():
    model = build_model(**SMALL).eval()
    net_input, _ = make_batch([4] * 8)
    _, extra = model(**net_input)
    assert extra["sentence_ranks"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_routing_noise_is_the_same_again_for_the_same_update_and_micro_batch():
    net_input, _target = make_batch(LENGTHS)
    model = build_model(**SMALL).train()

    def loads(update):
        model.set_num_updates(update)
        _, extra = model(**net_input)
        return torch.stack([report.counted[-8:] for report in extra["moe_reports"]])

    first, second, third = loads(5), loads(5), loads(6)
    assert not torch.equal(first, second)  # another micro-batch of update 5
    assert not torch.equal(first, third)
    assert torch.equal(loads(5), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moe_expert_count": 6}, "--moe-expert-count (6) must be a multiple or a divisor"),
        ({"capacity_factor": -1.0}, "--capacity-factor must be"),
        ({"moe_eval_capacity_token_fraction": 1.5}, "--moe-eval-capacity-token-fraction must be"),
        ({"moe_expert_count": 0}, "--moe-expert-count must be"),
        ({"moe_expert_ffn_dim": 0}, "--moe-expert-ffn-dim must be"),
        ({"moe_expert_backend": "loop"}, "--moe-expert-backend must be one of auto, bmm"),
        ({"encoder_layerdrop": 0.1}, "--encoder-layerdrop"),
        ({"ddp_backend": "fully_sharded"}, "--ddp-backend fully_sharded"),
        ({"fp16": True, "optimizer": "adam"}, "--fp16-no-flatten-grads"),
        ({"quant_noise_pq": 0.1}, "--quant-noise-pq does not work"),
        ({"quant_noise_scalar": 0.1}, "--quant-noise-scalar does not work"),
        ({"quantization_config_path": "config.yaml"}, "--quantization-config-path does not work"),
        ({"scale_fc": True}, "--scale-fc does not work"),
        ({"scale_resids": True}, "--scale-resids does not work"),
        ({"base_layers": 1}, "--base-layers does not work"),
        ({"encoder_layers_to_keep": "0,2"}, "--encoder-layers-to-keep does not work"),
        ({"decoder_layers_to_keep": "0,2"}, "--decoder-layers-to-keep does not work"),
        ({"export": True}, "--export does not work"),
        ({"moe_nodes": 0}, "--moe-nodes must be"),
        ({"criterion": "cross_entropy"}, "--criterion moe_cross_entropy, or add --criterion-w"),
        ({"ratio1": 0.3}, "--ratio1 0.3 has no effect without --scomoe-type"),
        ({"ratio2": 0.0, "scomoe_type": "none"}, "--ratio2 0.0 has no effect"),
        ({"fp16": True, "cpu": True}, "--fp16 is very slow on a CPU; use --bf16"),
        ({"optimizer": "moe_adam", "lr": [0.25]}, "--lr is 0.25, fairseq's value where none"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        build_model(**{**SMALL, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "cross_entropy", "criterion_without_balance": True},
        {"ratio1": 0.3, "token_cluster": True},
        {"lr": [0.25], "optimizer": "sgd"},
        # What a checkpoint says is as it was trained.
        {"criterion": "cross_entropy", "ratio1": 0.3, "fp16": True, "moe_layout_given": True},
    ],
)
def test_what_is_meant_is_built(options):
    assert build_model(**{**SMALL, **options}).moe_parts is not None


# Options of fairseq's that reach a model only through its own code, its decoder's above all.
OF_FAIRSEQ = {
    "scaled attention": {"scale_attn": True, "scale_heads": True},
    "cross- and self-attention in one": CROSS_AND_SELF,
    "no norm at the end": {"no_decoder_final_norm": True},
    "norm of embeddings": {"layernorm_embedding": True, "no_scale_embedding": True},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "no positions": {"no_token_positional_embeddings": True},
    "other widths of the decoder's ends": {
        "share_all_embeddings": False,
        "decoder_input_dim": 8,
        "decoder_output_dim": 24,
    },
    "adaptive softmax": {"share_all_embeddings": False, "adaptive_softmax_cutoff": "10,20"},
}


@pytest.mark.parametrize("name", OF_FAIRSEQ)
def test_without_feed_forward_layers_what_is_left_is_fairseqs_transformer(name):
    shape = {"encoder_layers": 2, "decoder_layers": 2, "share_all_embeddings": True}
    shape |= {"encoder_normalize_before": True, "decoder_normalize_before": True}
    net_input, target = make_batch(LENGTHS)
    results = []
    for arch in ("scomoe_tiny", "transformer"):
        model = build_model(arch, **{**SMALL, **shape, **OF_FAIRSEQ[name]}).double().eval()
        _set_weights(model)
        lprobs = model.get_normalized_probs(model(**net_input), log_probs=True)
        results.append(lprobs[target != DICTIONARY.pad()])
    torch.testing.assert_close(*results)


def _set_weights(model) -> None:
    """The same in both models; feed-forward layers and experts add nothing."""
    generator = torch.Generator().manual_seed(2)
    by_name = {n.replace(".attention.", "."): p for n, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in sorted(by_name.items()):
            if any(part in name for part in (".feed_forward.", ".fc", "final_layer_norm")):
                parameter.zero_()
            else:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(0.2 * noise)


def test_an_expert_width_of_its_own_works():
    model = build_model(**SMALL, moe_expert_ffn_dim=10)
    shapes = {p.shape for n, p in model.named_parameters() if n.endswith("weight1_LDH")}
    assert shapes == {(8, 16, 10)}


def test_experts_multiply_as_the_option_says():
    for options, wanted in (({}, "auto"), ({"moe_expert_backend": "grouped"}, "grouped")):
        model = build_model(**SMALL, **options)
        experts = [module for module in model.modules() if isinstance(module, ExpertFFN)]
        assert experts
        assert {module.backend for module in experts} == {wanted}
