"""Which models Hugging Face's NllbMoe can compute, and its configuration for one of them.

Read in transformers 4.57, models/nllb_moe/modeling_nllb_moe.py: pre-norm layers, one embedding for
source, target and output, sinusoidal positions, and top-2 routing whose two weights add up to 1.
"""

from typing import Any

from fairseq.models.transformer import TransformerConfig

from user_dir.exporting.loaded import Loaded
from user_dir.exporting.refusal import refuse, refuse_other_decoders
from user_dir.fast_moe.build import MoeParts
from user_dir.fast_moe.config import MoeConfig
from user_dir.fast_moe.layout.reach import Reach
from user_dir.transformer.layer_order import DenseLayer, LayerOrder, order_layers

MODEL_CLASS = "NllbMoeForConditionalGeneration"
# fairseq's names and transformers' of the same function.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "tanh": "tanh",
    "linear": "linear",
}


def check_fits(loaded: Loaded) -> None:
    """Refuse a model that NllbMoe would compute otherwise.

    Raises:
        UserError: says which option is to blame, and why.
    """
    _check_layers(loaded.cfg)
    _check_embeddings(loaded)
    if loaded.moe_parts is not None:
        _check_structure(loaded.moe_parts)
        _check_gate(loaded.moe_parts)
        for stack in "encoder", "decoder":
            _check_widths(loaded.moe_parts.config, loaded.cfg, stack)


def configuration(loaded: Loaded) -> dict[str, Any]:
    """The content of config.json."""
    cfg, dictionary = loaded.cfg, loaded.source
    sizes: dict[str, Any] = {}
    for stack in "encoder", "decoder":
        of_stack = getattr(cfg, stack)
        sizes |= {
            f"{stack}_layers": of_stack.layers,
            f"{stack}_attention_heads": of_stack.attention_heads,
            f"{stack}_ffn_dim": of_stack.ffn_embed_dim,
            f"{stack}_layerdrop": 0.0,
            f"{stack}_sparse_step": 0,
        }
    if loaded.moe_parts is not None:
        sizes |= _of_mixtures(loaded.moe_parts.config, cfg)
    return {
        "architectures": [MODEL_CLASS],
        "model_type": "nllb-moe",
        "is_encoder_decoder": True,
        "vocab_size": len(dictionary),
        "d_model": cfg.encoder.embed_dim,
        **sizes,
        "max_position_embeddings": max(cfg.max_source_positions, cfg.max_target_positions),
        "activation_function": _ACTIVATIONS[str(cfg.activation_fn)],
        "scale_embedding": not cfg.no_scale_embedding,
        "tie_word_embeddings": True,
        "dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "activation_dropout": cfg.activation_dropout or cfg.relu_dropout or 0.0,
        **_special_ids(loaded),
        "torch_dtype": "float32",
    }


def generation(loaded: Loaded) -> dict[str, Any]:
    """The content of generation_config.json: the search of `scomoe-translate`."""
    options = {
        **_special_ids(loaded),
        "num_beams": loaded.beam,
        "length_penalty": loaded.length_penalty,
        # A search ends as soon as it has as many finished translations as beams.
        "early_stopping": True,
        # The first token counts, and so does the end of the sentence.
        "max_length": loaded.longest + 2,
        "min_length": 2,
        "forced_eos_token_id": loaded.source.eos(),
        # fairseq never generates padding.
        "suppress_tokens": [loaded.source.pad()],
    }
    if first := loaded.given_tokens.target:
        options["forced_bos_token_id"] = loaded.source.index(first)
    return options


def _special_ids(loaded: Loaded) -> dict[str, int]:
    dictionary = loaded.source
    return {
        "bos_token_id": dictionary.bos(),
        "pad_token_id": dictionary.pad(),
        "eos_token_id": dictionary.eos(),
        "decoder_start_token_id": dictionary.eos(),  # with which fairseq begins a translation
    }


def _of_mixtures(config: MoeConfig, cfg: TransformerConfig) -> dict[str, Any]:
    shared = config.shared
    options: dict[str, Any] = {
        "num_experts": config.num_experts,
        "encoder_sparse_step": config.encoder_freq,
        "decoder_sparse_step": config.decoder_freq,
        "router_bias": False,
        "router_dtype": "float32",
        "router_ignore_padding_tokens": False,
        # Its other policies draw at evaluation too, where ours keep both experts.
        "second_expert_policy": "all",
        "normalize_router_prob_before_dropping": config.gate.normalize_before_dropping,
        "batch_prioritized_routing": False,  # has no effect where nothing is dropped
        "moe_eval_capacity_token_fraction": 1.0,  # every expert has a slot for every token
        # Of training; transformers 4 works it out. Transformers 5 takes numbers alone and so
        # refuses the model, whose tokens it would all send to experts 0 and 1.
        "expert_capacity": None,
        # Outputs are scaled by what masking left of them in training.
        "moe_token_dropout": 1 - (1 - shared.expert_masking) * (1 - shared.final_masking),
    }
    for stack in "encoder", "decoder":
        if _order(config, cfg, stack).mixtures:
            width = config.expert_ffn_dim or getattr(cfg, stack).ffn_embed_dim
            options[f"{stack}_ffn_dim"] = width
    return options


def _check_layers(cfg: TransformerConfig) -> None:
    for stack in "encoder", "decoder":
        of_stack = getattr(cfg, stack)
        refuse(
            not of_stack.normalize_before,
            f"A model without --{stack}-normalize-before",
            "NllbMoe normalises before attention and feed-forward layers, not after them",
        )
        refuse(
            of_stack.learned_pos,
            f"--{stack}-learned-pos",
            "NllbMoe has sinusoidal positions only",
        )
    refuse(
        cfg.layernorm_embedding,
        "--layernorm-embedding",
        "NllbMoe has no norm behind its embeddings",
    )
    refuse_other_decoders(cfg, program="NllbMoe")
    name = str(cfg.activation_fn)
    refuse(
        name not in _ACTIVATIONS,
        f"--activation-fn {name}",
        f"those that transformers computes alike are {', '.join(_ACTIVATIONS)}",
    )


def _check_embeddings(loaded: Loaded) -> None:
    encoder, decoder = loaded.model.encoder, loaded.model.decoder
    embedding = getattr(encoder.embed_tokens, "weight", None)
    output = getattr(decoder.output_projection, "weight", None)
    refuse(
        embedding is None
        or embedding is not decoder.embed_tokens.weight
        or embedding is not output,
        "A model without --share-all-embeddings",
        "NllbMoe has one embedding for source, target and output",
    )


def _check_structure(parts: MoeParts) -> None:
    config = parts.config
    refuse(
        config.reorders,
        "--token-cluster" if config.token_cluster else "--reorder-layers",
        "NllbMoe's mixtures stand in its layers; they cannot all follow its attention",
    )
    seq_shares = parts.seq_shares
    refuse(
        seq_shares is not None
        and config.inference_partition != "everywhere"
        and seq_shares.reaches() != (Reach.GLOBAL,),
        f"--scomoe-type seq --ratio1 {config.ratio1:g} --ratio2 {config.ratio2:g}",
        "NllbMoe's tokens may all go to any expert; with --model-overrides "
        "\"{'scomoe_inference_partition': 'everywhere'}\" they may here as well, and that can be "
        "exported",
    )
    refuse(
        config.scomoe_type in ("feat", "bottleneck"),
        f"--scomoe-type {config.scomoe_type}",
        "NllbMoe's experts read and write whole tokens",
    )
    refuse(
        config.layernorm_after_moe,
        "--layernorm-after-moe-layer",
        "NllbMoe has no norm behind its experts",
    )
    refuse(config.shared.conditional, "--moe-cmr", "NllbMoe has no network beside its experts")
    refuse(
        config.shared.ffn_dim is not None,
        "--moe-shared-expert-ffn-dim",
        "NllbMoe has no network beside its experts",
    )


def _check_gate(parts: MoeParts) -> None:
    config, gate = parts.config, parts.config.gate
    refuse(
        gate.top1 and config.num_experts > 1,
        "--moe-top1-expert",
        "NllbMoe sends every token to two experts, whose weights add up to 1",
    )
    refuse(
        gate.kind != "softmax",
        f"--moe-gate {gate.kind}",
        "NllbMoe weights experts by a softmax",
    )
    refuse(gate.expert_choice, "--moe-expert-choice", "NllbMoe's tokens choose their experts")
    refuse(
        gate.balance == "bias",
        "--moe-balance bias",
        "NllbMoe's router has a bias that would change weights as well as choices",
    )
    num_nodes = parts.topology.layout.num_nodes
    refuse(
        gate.limit_nodes is not None and gate.limit_nodes < num_nodes,
        f"--moe-limit-nodes {gate.limit_nodes}",
        "NllbMoe knows no nodes, and its tokens choose among all experts",
    )
    fraction = config.eval_capacity_token_fraction
    refuse(
        fraction not in (0, 1),
        f"--moe-eval-capacity-token-fraction {fraction:g}",
        "NllbMoe would drop other tokens, for its slots are those of a batch and not of a rank; "
        "with --model-overrides \"{'moe_eval_capacity_token_fraction': 0.0}\" none are dropped, "
        "and that can be exported",
    )


def _check_widths(config: MoeConfig, cfg: TransformerConfig, stack: str) -> None:
    order = _order(config, cfg, stack)
    width, given = getattr(cfg, stack).ffn_embed_dim, config.expert_ffn_dim
    is_mixed = DenseLayer.FULL in order.layers and bool(order.mixtures)
    refuse(
        is_mixed and given not in (None, width),
        f"--moe-expert-ffn-dim {given}",
        f"NllbMoe has one width for all feed-forward layers of a stack, and the {stack}'s dense "
        f"ones have {width}",
    )


def _order(config: MoeConfig, cfg: TransformerConfig, stack: str) -> LayerOrder:
    return order_layers(config, stack=stack, num_layers=getattr(cfg, stack).layers)
