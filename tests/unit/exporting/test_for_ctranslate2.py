"""The probabilities that CTranslate2 gives with an exported model, against ours; refusals."""

import pytest
import torch

from tests.support.exporting import PRE_NORM, STOCK, loaded_model
from tests.support.models import CROSS_AND_SELF, DICTIONARY, LENGTHS, SMALL, make_batch
from user_dir.errors import UserError

ctranslate2 = pytest.importorskip("ctranslate2")

from user_dir.exporting.for_ctranslate2 import write_ctranslate2  # noqa: E402

POST_NORM = dict.fromkeys(PRE_NORM, False)
DENSE = {**SMALL, **POST_NORM, "moe_freq": 0, "share_all_embeddings": False}
SHARED = {"share_all_embeddings": True}
LEARNED = {"encoder_learned_pos": True, "decoder_learned_pos": True}
CONVOLUTIONS = {
    **dict.fromkeys(("encoder_layers", "decoder_layers"), "[(16, 3)]"),
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "decoder_out_embed_dim"), 16),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 64),
}


def pieces(row: torch.Tensor) -> list[str]:
    """Those of a sentence, without its end and padding."""
    hidden = DICTIONARY.pad(), DICTIONARY.eos()
    return [DICTIONARY[index] for index in row.tolist() if index not in hidden]


@pytest.mark.parametrize(
    "options",
    [
        {**PRE_NORM, **SHARED},
        {**STOCK, **SHARED},
        {"share_decoder_input_output_embed": True},
        {**PRE_NORM, "encoder_layers": 3, "activation_fn": "gelu"},
        {**LEARNED, "activation_fn": "gelu_accurate", "encoder_ffn_embed_dim": 40},
        {**PRE_NORM, "layernorm_embedding": True, "no_scale_embedding": True},
    ],
    ids=" ".join,
)
def test_every_token_has_the_probability_that_we_give_it(options, tmp_path) -> None:
    loaded = loaded_model(**{**DENSE, **options})
    write_ctranslate2(loaded, tmp_path)
    batch, target = make_batch(LENGTHS)
    translator = ctranslate2.Translator(str(tmp_path), compute_type="float32")
    scores = translator.score_batch(
        list(map(pieces, batch["src_tokens"])), list(map(pieces, target))
    )
    with torch.no_grad():
        logits, _ = loaded.model(**batch)
    ours = logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    for theirs, row, ids in zip(scores, ours, target, strict=True):
        is_real = ids.ne(DICTIONARY.pad())
        torch.testing.assert_close(
            torch.tensor(theirs.log_probs), row[is_real], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"moe_freq": 2}, "A mixture of experts"),
        ({"encoder_normalize_before": True}, "--encoder-normalize-before"),
        ({"decoder_attention_heads": 4}, "--encoder-attention-heads"),
        ({"no_token_positional_embeddings": True}, "--no-token-positional-embeddings"),
        ({**PRE_NORM, "no_decoder_final_norm": True}, "--no-decoder-final-norm"),
        (CROSS_AND_SELF, "--no-cross-attention"),
        ({"decoder_output_dim": 8}, "--decoder-output-dim"),
        ({"activation_fn": "tanh"}, "--activation-fn tanh"),
        ({"scale_fc": True}, "decoder.layers.0.ffn_layernorm.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_would_compute_otherwise_is_refused_by_name(options, flag, tmp_path) -> None:
    loaded = loaded_model(**{**DENSE, **options})
    with pytest.raises(UserError, match="cannot be exported: CTranslate2") as error:
        write_ctranslate2(loaded, tmp_path)
    assert flag in str(error.value)


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"\(FConvModel\) is not that of fairseq's transformer"):
        loaded_model(arch="fconv", **CONVOLUTIONS)
