"""The stacks of mixtures whose exchanges are measured and counted, and the tokens of a step."""

from argparse import Namespace
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from user_dir.fast_moe.build import ExpertSizes, MoeParts
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.gating.dropout import GatingDropout
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.running_state import move_running_states
from user_dir.fast_moe.tokens.noise import NoiseKey
from user_dir.fast_moe.tokens.ranked import RankedTokens, rank_tokens
from user_dir.transformer.mixture_tail import MixtureTail
from user_dir.transformer.sublayers import SublayerConfig

EXPERTS_PER_RANK, NUM_LAYERS = 2, 6
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
HALF_SEQ = {"scomoe_type": "seq", "ratio1": 0.1, "ratio2": 0.25}
BY_NODE = {"scomoe_type": "seq", "ratio1": 0.0, "ratio2": 0.9}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
BY_THRESHOLD = {**SEQ, "scomoe_partition": "threshold"}
HIERARCHICAL = {"moe_exchange": "hierarchical"}
ONE_NODE = {"moe_limit_nodes": 1}
# Of the stack that is built: its tokens' width, and its experts' hidden one.
HALF_WIDTH, HIDDEN_WIDTH = "D/2", "H"
BOTTLENECK = {"scomoe_type": "bottleneck", "moe_exchange_dim": HALF_WIDTH}
ALL_PLAIN = (LayerKind.PLAIN,) * NUM_LAYERS
BEHIND_PLAIN = {kind: (LayerKind.PLAIN, *(kind,) * (NUM_LAYERS - 1)) for kind in LayerKind}
BEHIND_CLUSTERS = {kind: (LayerKind.CLUSTER, *(kind,) * (NUM_LAYERS - 1)) for kind in LayerKind}
# By name: options, and the mixtures of the stack; as in the model the first one
# does not divide its tokens or features.
STACKS = {
    "gshard": ({}, ALL_PLAIN),
    "switch": ({"moe_top1_expert": True}, ALL_PLAIN),
    "shared expert": ({"moe_shared_expert_ffn_dim": HIDDEN_WIDTH}, ALL_PLAIN),
    "gshard, hierarchical": (HIERARCHICAL, ALL_PLAIN),
    "one node a token": (ONE_NODE, ALL_PLAIN),
    "one node a token, hierarchical": ({**ONE_NODE, **HIERARCHICAL}, ALL_PLAIN),
    "expert choice": ({"moe_expert_choice": True}, ALL_PLAIN),
    "gating dropout": ({"moe_gating_dropout": 0.2}, ALL_PLAIN),
    "bottleneck": (BOTTLENECK, (LayerKind.BOTTLENECK,) * NUM_LAYERS),
    "seq": (SEQ, BEHIND_PLAIN[LayerKind.SEQ]),
    "seq, hierarchical": ({**SEQ, **HIERARCHICAL}, BEHIND_PLAIN[LayerKind.SEQ]),
    "seq by threshold": (BY_THRESHOLD, BEHIND_PLAIN[LayerKind.SEQ]),
    "seq by node": (BY_NODE, BEHIND_PLAIN[LayerKind.SEQ]),
    "feat": (FEAT, BEHIND_PLAIN[LayerKind.FEAT]),
    "gshard+cluster": ({}, BEHIND_CLUSTERS[LayerKind.PLAIN]),
    "seq+cluster": (SEQ, BEHIND_CLUSTERS[LayerKind.SEQ]),
    "seq/2+cluster": (HALF_SEQ, BEHIND_CLUSTERS[LayerKind.SEQ]),
    "seq+cluster by threshold": (BY_THRESHOLD, BEHIND_CLUSTERS[LayerKind.SEQ]),
    "seq by node+cluster": (BY_NODE, BEHIND_CLUSTERS[LayerKind.SEQ]),
    "feat+cluster": (FEAT, BEHIND_CLUSTERS[LayerKind.FEAT]),
    "seq, all layers": (SEQ, (LayerKind.SEQ,) * NUM_LAYERS),
}


@dataclass(frozen=True)
class StepSize:
    """What one rank works on."""

    sentences: int
    length: int
    dim: int
    hidden: int


def options_of(name: str, size: StepSize) -> dict[str, Any]:
    """What a stack sets of the options of `--arch scomoe`."""
    options, _ = STACKS[name]
    widths = {HALF_WIDTH: size.dim // 2, HIDDEN_WIDTH: size.hidden}
    return {option: widths.get(value, value) for option, value in options.items()}


def has_reaches(name: str) -> bool:
    """Whether tokens or features differ in reach, so that exchanges can overlap with experts."""
    _, kinds = STACKS[name]
    return not {LayerKind.SEQ, LayerKind.FEAT}.isdisjoint(kinds)


def build_stack(name: str, topology: Topology, size: StepSize) -> tuple[MixtureTail, MoeParts]:
    """The stack, the same on every process, and what its layers share."""
    _, kinds = STACKS[name]
    config = MoeConfig.from_args(
        Namespace(
            moe_freq=2,
            moe_expert_count=topology.num_experts,
            reorder_layers=True,
            token_cluster=LayerKind.CLUSTER in kinds,
            **options_of(name, size),
        )
    )
    parts = MoeParts(config=config, topology=topology)
    of_sublayers = SublayerConfig(
        "encoder", ExpertSizes(size.dim, size.hidden), dropout=0.0, normalize_before=True
    )
    recomputation = SimpleNamespace(checkpoint_activations=False, offload_activations=False)
    torch.manual_seed(1)
    return MixtureTail(parts, of_sublayers, kinds, recomputation), parts


def passes_of(
    stack: MixtureTail, parts: MoeParts, size: StepSize, x_SBD: Tensor
) -> list[tuple[float, RankedTokens]]:
    """The passes that make up a mean update of a stack, and what share each of them has.

    There are two where tokens stay on their rank in some updates. Thresholds are learned here, by
    one update, so that all processes must call it together.
    """
    dropout = GatingDropout(parts.config.gate.dropout)
    if dropout.share:
        staying = next(key for key in map(_update, range(100)) if dropout.is_on(key))
        leaving = next(key for key in map(_update, range(100)) if not dropout.is_on(key))
        kinds = ((dropout.share, staying), (1 - dropout.share, leaving))
        return [(share, _make_tokens(parts, size, key)) for share, key in kinds]
    if parts.config.partition != "threshold":
        return [(1.0, _make_tokens(parts, size, None))]
    tokens = _make_tokens(parts, size, _update(0))
    with torch.no_grad():
        stack(x_SBD, tokens)
    move_running_states(stack, x_SBD.device)
    return [(1.0, tokens)]


def _update(number: int) -> NoiseKey:
    return NoiseKey(seed=1, update=number, micro_batch=0)


def _make_tokens(parts: MoeParts, size: StepSize, noise: NoiseKey | None) -> RankedTokens:
    """Equally many on every hosted rank, without padding."""
    num_hosted = parts.topology.num_hosted
    num_sentences = num_hosted * size.sentences
    return rank_tokens(
        torch.zeros(num_sentences, size.length, dtype=torch.bool),
        torch.arange(num_hosted).repeat_interleave(size.sentences),
        num_hosted=num_hosted,
        shares=parts.seq_shares,
        noise=noise,
    )
