"""The sizes of the named architectures: what each sets where the command line does not.

Apart from `architectures`, which tells fairseq, so that a plan can be made without it.
"""

_MIXTURE = {"moe_freq": 2, "moe_expert_count": 8}

SIZES: dict[str, dict[str, int | bool]] = {
    "scomoe": {},
    "scomoe_tiny": {
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 256,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "decoder_layers": 4,
        "decoder_attention_heads": 4,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
        **_MIXTURE,
    },
    "scomoe_base": _MIXTURE,
    "scomoe_large": {
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_layers": 12,
        "encoder_attention_heads": 16,
        "decoder_layers": 12,
        "decoder_attention_heads": 16,
        **_MIXTURE,
        "moe_expert_count": 32,
    },
}
