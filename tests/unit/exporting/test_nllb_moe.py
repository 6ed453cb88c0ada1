"""What Hugging Face's NllbMoe computes of an exported model, against ours; and what is refused."""

import json

import pytest
import torch

from tests.support.commands import ROOT
from tests.support.exporting import FITTING, PRE_NORM, STOCK, loaded_model
from tests.support.models import DICTIONARY, LENGTHS, SEQ, SMALL, WIDE, make_batch
from user_dir.errors import UserError

transformers = pytest.importorskip("transformers")

from user_dir.exporting.huggingface import write_huggingface  # noqa: E402

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
EVERYWHERE = {**SEQ, "scomoe_inference_partition": "everywhere"}


def logits_of_ours(loaded, batch) -> torch.Tensor:
    logits, _ = loaded.model(**batch)
    return logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"moe_freq": 1, "moe_expert_ffn_dim": 40},
        {"moe_freq": 0},
        STOCK,
        {"encoder_layers": 4, "encoder_moe_freq": 4, "decoder_moe_freq": 1},
        {"decoder_moe_freq": 0, "encoder_ffn_embed_dim": 40, "decoder_ffn_embed_dim": 24},
        {"moe_expert_count": 2, "no_scale_embedding": True},
        {"moe_expert_count": 1, "moe_top1_expert": True},
        {"activation_fn": "gelu", "moe_gating_use_fp32": True},
        {"activation_fn": "gelu_accurate", "moe_normalize_gate_prob_before_dropping": True},
        {"activation_fn": "tanh", "moe_exchange": "hierarchical", "moe_limit_nodes": 2},
        {"activation_fn": "linear", "moe_eval_capacity_token_fraction": 1.0},
        {"moe_eom": 0.25, "moe_fom": 0.1, "moe_second_expert_policy": "random"},
        {"moe_freq": 1, **SEQ, "ratio1": 0.0, "ratio2": 0.0},
        {"moe_freq": 1, **EVERYWHERE, "moe_batch_prioritized_routing": True},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_logits_are_ours_whatever_an_exported_model_is_made_of(options, tmp_path) -> None:
    loaded = loaded_model(**{**FITTING, **options})
    write_huggingface(loaded, tmp_path)
    model, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(model).__name__ == "NllbMoeForConditionalGeneration"
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    batch, target = make_batch(LENGTHS)
    with torch.no_grad():
        theirs = model.eval()(
            input_ids=batch["src_tokens"],
            attention_mask=batch["src_tokens"].ne(DICTIONARY.pad()),
            decoder_input_ids=batch["prev_output_tokens"],
        ).logits
    is_real = target.ne(DICTIONARY.pad())
    expected = logits_of_ours(loaded, batch)[is_real]
    torch.testing.assert_close(theirs[is_real], expected, atol=1e-5, rtol=1e-5)


def test_mixtures_of_an_exported_model_are_not_all_alike(tmp_path) -> None:
    """Or the comparison of logits would not see experts that are confused with each other."""
    loaded = loaded_model(**FITTING)
    write_huggingface(loaded, tmp_path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    experts = model.model.encoder.layers[1].ffn.experts
    first, second = experts["expert_0"], experts["expert_1"]
    first.fc1.weight.data, second.fc1.weight.data = second.fc1.weight.data, first.fc1.weight.data
    batch, target = make_batch(LENGTHS)
    with torch.no_grad():
        theirs = model.eval()(
            input_ids=batch["src_tokens"], decoder_input_ids=batch["prev_output_tokens"]
        ).logits
    is_real = target.ne(DICTIONARY.pad())
    assert not torch.allclose(theirs[is_real], logits_of_ours(loaded, batch)[is_real], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"encoder_normalize_before": False}, "--encoder-normalize-before"),
        ({"decoder_normalize_before": False}, "--decoder-normalize-before"),
        ({"encoder_learned_pos": True}, "--encoder-learned-pos"),
        ({"no_token_positional_embeddings": True}, "--no-token-positional-embeddings"),
        ({"layernorm_embedding": True}, "--layernorm-embedding"),
        ({"no_decoder_final_norm": True}, "--no-decoder-final-norm"),
        ({"no_cross_attention": True}, "--no-cross-attention"),
        ({"share_all_embeddings": False}, "--share-all-embeddings"),
        (
            {"share_all_embeddings": False, "share_decoder_input_output_embed": True},
            "--share-all-embeddings",
        ),
        ({"token_cluster": True, "cluster_by": "scores"}, "--token-cluster"),
        ({"reorder_layers": True}, "--reorder-layers"),
        ({"encoder_layers": 4, **SEQ}, "--scomoe-type seq --ratio1 0.2 --ratio2 0.5"),
        ({**WIDE, "encoder_layers": 4, "scomoe_type": "feat"}, "--scomoe-type feat"),
        (
            {"scomoe_type": "bottleneck", "moe_exchange_dim": 8, "moe_freq": 1},
            "--scomoe-type bottleneck",
        ),
        ({"layernorm_after_moe_layer": True}, "--layernorm-after-moe-layer"),
        ({"moe_cmr": True}, "--moe-cmr"),
        ({"moe_shared_expert_ffn_dim": 16}, "--moe-shared-expert-ffn-dim"),
        ({"moe_top1_expert": True}, "--moe-top1-expert"),
        ({"moe_gate": "sigmoid"}, "--moe-gate sigmoid"),
        ({"moe_expert_choice": True}, "--moe-expert-choice"),
        ({"moe_balance": "bias"}, "--moe-balance bias"),
        ({"moe_limit_nodes": 1}, "--moe-limit-nodes 1"),
        (
            {"moe_eval_capacity_token_fraction": 0.25},
            "--moe-eval-capacity-token-fraction 0.25",
        ),
        ({"moe_expert_ffn_dim": 40}, "--moe-expert-ffn-dim 40"),
        ({"moe_freq": 0, "scale_fc": True}, "decoder.layers.0.ffn_layernorm.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_would_compute_otherwise_is_refused_by_name(options, flag, tmp_path) -> None:
    loaded = loaded_model(**{**FITTING, **options})
    with pytest.raises(UserError, match="cannot be exported: NllbMoe") as error:
        write_huggingface(loaded, tmp_path)
    assert flag in str(error.value)
    assert not flag.startswith("--") or flag.split(" ")[0] in PAGE


def test_transformers_5_must_not_take_a_mixture(tmp_path) -> None:
    """It would send all tokens to two experts; a capacity that is no number is refused there."""
    for freq, is_taken in (2, False), (0, True):
        write_huggingface(loaded_model(**{**FITTING, "moe_freq": freq}), tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert (written.get("expert_capacity", 64) is not None) == is_taken


def test_its_search_is_that_of_scomoe_translate(tmp_path) -> None:
    write_huggingface(loaded_model(**{**SMALL, **PRE_NORM, "share_all_embeddings": True}), tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["num_beams"] == 5
    assert written["max_length"] == 202  # begin, 200 tokens, end
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert vocabulary == {symbol: DICTIONARY.index(symbol) for symbol in DICTIONARY.symbols}
    assert not (tmp_path / "tokenizer.json").exists()


def test_whoever_may_read_one_file_may_read_all(tmp_path) -> None:
    write_huggingface(loaded_model(**FITTING), tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
