"""A folder that `ctranslate2.Translator` loads, of a dense model.

CTranslate2's own converter of fairseq's models reads the layers. It loads checkpoints of fairseq's
architectures only, and without our tasks; so the model is loaded here.
"""

import re
from pathlib import Path

from ctranslate2.converters import fairseq as converter
from ctranslate2.specs import TransformerSpec
from ctranslate2.specs.common_spec import Activation
from fairseq.data import Dictionary

from user_dir.exporting.loaded import Loaded
from user_dir.exporting.refusal import refuse, refuse_other_decoders, refuse_tensor
from user_dir.text.subwords import Subwords

_ACTIVATIONS = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_fast": Activation.GELUTanh,
    "gelu_accurate": Activation.GELUTanh,
}
# What the converter reads.
_KNOWN = re.compile(
    r"(?:encoder|decoder)\.(?:embed_tokens|embed_positions|layer_norm|layernorm_embedding"
    r"|output_projection|project_in_dim|project_out_dim"
    r"|layers\.\d+\.(?:(?:self_attn|encoder_attn)\.(?:[qkv]|out)_proj"
    r"|(?:self_attn|encoder_attn|final)_layer_norm|fc1|fc2))\.(?:weight|bias)"
)


def write_ctranslate2(loaded: Loaded, folder: Path) -> None:
    """Write the model and its vocabularies, and sentencepiece's model if there is one.

    Raises:
        UserError: CTranslate2 would compute something else; says which option is to blame.
    """
    check_fits(loaded)
    model, cfg = loaded.model, loaded.cfg
    spec = TransformerSpec.from_config(
        (cfg.encoder.layers, cfg.decoder.layers),
        cfg.encoder.attention_heads,
        pre_norm=cfg.encoder.normalize_before,
        activation=_ACTIVATIONS[str(cfg.activation_fn)],
        layernorm_embedding=cfg.layernorm_embedding,
    )
    converter.set_transformer_encoder(spec.encoder, model.encoder)
    converter.set_transformer_decoder(spec.decoder, model.decoder)
    spec.register_source_vocabulary(_symbols(loaded.source))
    spec.register_target_vocabulary(_symbols(loaded.target))
    spec.config.decoder_start_token = spec.config.eos_token  # as fairseq begins a translation
    spec.config.add_source_eos = True
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    if isinstance(loaded.segmentation, Subwords):
        (folder / "spm.model").write_bytes(loaded.segmentation.model)


def check_fits(loaded: Loaded) -> None:
    """Refuse a model that CTranslate2 would compute otherwise.

    Raises:
        UserError: says which option is to blame, and why.
    """
    cfg = loaded.cfg
    refuse(
        loaded.moe_parts is not None,
        "A mixture of experts",
        "CTranslate2 has dense feed-forward layers only; --to hf may do",
    )
    for name in "normalize_before", "attention_heads":
        refuse(
            getattr(cfg.encoder, name) != getattr(cfg.decoder, name),
            f"--encoder-{name.replace('_', '-')} of another value than the decoder's",
            "CTranslate2 has one for both",
        )
    refuse_other_decoders(cfg, program="CTranslate2")
    refuse(
        cfg.decoder.input_dim != cfg.decoder.embed_dim
        or cfg.decoder.output_dim != cfg.decoder.embed_dim,
        "--decoder-input-dim or --decoder-output-dim of another width than the decoder's",
        "CTranslate2's encoder-decoder models have one width",
    )
    name = str(cfg.activation_fn)
    refuse(
        name not in _ACTIVATIONS,
        f"--activation-fn {name}",
        f"CTranslate2 knows {', '.join(_ACTIVATIONS)}",
    )
    for parameter, _ in loaded.model.named_parameters():
        if not _KNOWN.fullmatch(parameter):
            refuse_tensor(parameter, program="CTranslate2")


def _symbols(dictionary: Dictionary) -> list[str]:
    """By their ids, in CTranslate2's words."""
    return ["<blank>" if one == "<pad>" else one for one in dictionary.symbols]
