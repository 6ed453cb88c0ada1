"""The tensors of Hugging Face's NllbMoe, from those of fairseq's Transformer with our mixtures.

By names alone, which are the models'. Shape suffixes: L experts, D model width, H hidden width.
"""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from user_dir.exporting.refusal import refuse_tensor

_EMBEDDING = "encoder.embed_tokens.weight"
_NORM = re.compile(r"(encoder|decoder)\.layer_norm\.(weight|bias)")
# Of a dense layer, and what stands beside a mixture.
_ATTENTION = (
    r"(?:self_attn|encoder_attn)\.[qkv]_proj|(?:self_attn|encoder_attn)\.out_proj"
    r"|self_attn_layer_norm|encoder_attn_layer_norm"
)
_LAYER = re.compile(
    rf"((?:encoder|decoder)\.layers\.\d+)\.(?:attention\.)?({_ATTENTION}|final_layer_norm|fc1|fc2"
    r"|feed_forward\.layer_norm)\.(weight|bias)"
)
_GATE = re.compile(
    r"((?:encoder|decoder)\.layers\.\d+)\.feed_forward\.moe\.gate\.projection\.weight"
)
_EXPERTS = re.compile(
    r"((?:encoder|decoder)\.layers\.\d+)\.feed_forward\.moe\.experts\."
    r"(weight1_LDH|bias1_LH|weight2_LHD|bias2_LD)"
)
# Their names of a layer's parts, by ours.
_PARTS = {
    "final_layer_norm": "ff_layer_norm",
    "feed_forward.layer_norm": "ff_layer_norm",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
    "encoder_attn_layer_norm": "cross_attention_layer_norm",
}
_OF_EXPERT = {
    "weight1_LDH": "fc1.weight",
    "bias1_LH": "fc1.bias",
    "weight2_LHD": "fc2.weight",
    "bias2_LD": "fc2.bias",
}


def nllb_moe_weights(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of model.safetensors.

    Args:
        parameters: of a model that `nllb_moe.check_fits` lets pass, each once: the embedding by its
            name in the encoder.

    Raises:
        UserError: one of them has no place in NllbMoe.
    """
    return {
        f"model.{name}": tensor.contiguous()
        for ours, value in parameters.items()
        for name, tensor in _renamed(ours, value)
    }


def _renamed(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(Name, tensor) of what one parameter becomes: of stacked experts, one for each."""
    if name == _EMBEDDING:
        yield "shared.weight", value
    elif match := _LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        part = _PARTS.get(part, part.replace("encoder_attn.", "cross_attention."))
        yield f"{layer}.{part}.{kind}", value
    elif match := _GATE.fullmatch(name):
        yield f"{match[1]}.ffn.router.classifier.weight", value
    elif match := _EXPERTS.fullmatch(name):
        for index, of_expert in enumerate(value):
            # nn.Linear keeps its weight the other way round.
            tensor = of_expert.t() if of_expert.dim() == 2 else of_expert
            yield f"{match[1]}.ffn.experts.expert_{index}.{_OF_EXPERT[match[2]]}", tensor
    elif _NORM.fullmatch(name):
        yield name, value
    else:
        refuse_tensor(name, program="NllbMoe")
