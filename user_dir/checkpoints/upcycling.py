"""The tensors of a mixture, each of whose experts starts as a dense feed-forward layer.

Sparse upcycling (Komatsuzaki et al., ICLR 2023). By names alone, which are the model's.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# What stands in a layer with a mixture for a dense layer's parts.
_LAYER = re.compile(r"((?:encoder|decoder)\.layers\.\d+)\.(attention|feed_forward)\.(.+)")
_EXPERT = re.compile(r"moe\.experts\.(?:\w+\.)?(weight1_LDH|bias1_LH|weight2_LHD|bias2_LD)")
_SHARED = re.compile(r"moe\.shared\.(fc[12]\.(?:weight|bias))")
# As fairseq's iterator says that an epoch begins.
_FIRST_BATCH = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
_DENSE = {
    "weight1_LDH": "fc1.weight",
    "bias1_LH": "fc1.bias",
    "weight2_LHD": "fc2.weight",
    "bias2_LD": "fc2.bias",
}


def upcycled_weights(dense: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a new mixture with those of a dense model wherever that has any.

    All experts of a layer become copies of the dense layer, and so does the network that
    conditional routing mixes them with: a gate may weight copies as it likes. Gates and any other
    shared network stay as they are.

    Args:
        dense: of a model of the same sizes, without a mixture.
        fresh: of the new model; experts of all ranks.
    """
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, tensor in fresh.items():
        source = name if name in dense else _source(name, fresh)
        if source is None:
            weights[name] = tensor
            continue
        used.add(source)
        value = dense[source].to(tensor.dtype)
        if _is_of_experts(name):  # nn.Linear keeps its weight the other way round
            value = value.t().unsqueeze(0) if value.dim() == 2 else value.unsqueeze(0)
            value = value.repeat(len(tensor), *[1] * (value.dim() - 1))
        assert value.shape == tensor.shape, f"{name}: {value.shape} for {tensor.shape}"
        weights[name] = value
    assert used == dense.keys(), f"without a place: {sorted(dense.keys() - used)}"
    return weights


def upcycled_checkpoint(
    state: Mapping[str, Any], cfg: dict[Any, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A checkpoint of the mixture, to start training from or to translate with.

    Neither the optimizer's state nor a place in the data is the dense run's.

    Args:
        state: of the dense model.
        cfg: the options, those of the mixture among them.
    """
    kept = {key: state[key] for key in ("criterion", "task_state") if key in state}
    last = {**state["optimizer_history"][-1], "num_updates": 0, "lr_scheduler_state": {}}
    return {
        **kept,
        "args": None,
        "cfg": cfg,
        "model": dict(weights),
        "optimizer_history": [last],
        "extra_state": {"train_iterator": dict(_FIRST_BATCH)},
        "last_optimizer_state": None,
    }


def _is_of_experts(name: str) -> bool:
    match = _LAYER.fullmatch(name)
    return match is not None and _EXPERT.fullmatch(match[3]) is not None


def _source(name: str, fresh: Mapping[str, Tensor]) -> str | None:
    """The dense tensor that one of a layer with a mixture starts from; None: from none."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, part, rest = match.groups()
    if part == "attention":
        return f"{layer}.{rest}"
    if rest.startswith("layer_norm."):
        return f"{layer}.final_{rest}"
    if expert := _EXPERT.fullmatch(rest):
        return f"{layer}.{_DENSE[expert[1]]}"
    shared = _SHARED.fullmatch(rest)
    if shared and f"{layer}.feed_forward.moe.shared.gate.weight" in fresh:
        return f"{layer}.{shared[1]}"
    return None
