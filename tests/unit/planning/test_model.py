"""Planned parameters, architectures and activations against those of fairseq's models."""

from argparse import Namespace

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY

from tests.support.models import DICTIONARY, build_model, make_batch
from tests.unit.planning.settings import arguments, setting
from user_dir.cli.plan import get_parser
from user_dir.planning.memory import memory_of
from user_dir.planning.parameters import count_parameters
from user_dir.planning.setting import with_defaults
from user_dir.transformer.model import ScomoeModel
from user_dir.transformer.sizes import SIZES

ONE_RANK = {"moe_nodes": 1, "moe_ranks_per_node": 1}
SMALL = {
    "arch": "scomoe_tiny",
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_layers": 4,
    "decoder_layers": 2,
    **ONE_RANK,
}
VARIANTS = [
    {},
    {"scomoe_type": "feat", "scomoe_feat_projection": True, "moe_expert_ffn_dim": 20},
    {
        "scomoe_type": "seq",
        "token_cluster": True,
        "cluster_by": "scores",
        "layernorm_after_moe_layer": True,
    },
    {"scomoe_type": "bottleneck", "moe_exchange_dim": 16, "moe_shared_expert_ffn_dim": 40},
    {"moe_cmr": True},
    {"moe_expert_choice": True},
    {"moe_gating_dropout": 0.2},
    {"token_cluster": True, "cluster_by": "token", "decoder_moe_freq": 2},
    {"arch": "scomoe", "moe_freq": 2, "moe_expert_count": 2, "decoder_embed_dim": 16},
    {"arch": "scomoe_base", "share_decoder_input_output_embed": True, "reorder_layers": True},
]


@pytest.mark.parametrize("arch", sorted(SIZES))
def test_architectures_are_those_of_fairseq(arch):
    args = Namespace(arch=arch)
    ARCH_CONFIG_REGISTRY[arch](args)
    resolved = vars(with_defaults(arguments(arch=arch)))
    names = {name for name in resolved if name.startswith(("encoder_", "decoder_", "share_"))}
    assert len(names) > 10
    for name in names | {"moe_freq", "moe_expert_count"}:
        assert resolved[name] == vars(args).get(name), name


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_model_has_as_many_parameters_as_planned(variant):
    options = {**SMALL, **variant}
    model = build_model(**{"dropout": 0.1, **options})
    experts = sum(p.numel() for p in model.parameters() if hasattr(p, "expert"))
    counts = count_parameters(setting(**options, vocabulary=len(DICTIONARY)))
    assert counts.experts == counts.experts_of_rank == experts
    assert counts.total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS[:7], ids=str)
def test_a_forward_pass_keeps_as_much_as_planned(variant):
    length, lines = 16, 8
    options = {**SMALL, "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 96, **variant}
    model = build_model(**{"dropout": 0.1, **options}).train()
    net_input, _ = make_batch([length] * (lines - 1) + [length - 1])
    kept = _kept_bytes(model, net_input)
    one = setting(
        **options,
        vocabulary=len(DICTIONARY),
        tokens=length * lines,
        sentence_length=length,
    )
    planned = memory_of(one, count_parameters(one)).activations
    assert planned == pytest.approx(kept, rel=0.1)


def _kept_bytes(model, net_input) -> int:
    """Bytes that autograd saves, parameters apart."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor):
        if (pointer := tensor.untyped_storage().data_ptr()) not in known:
            storages[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**net_input)[0].sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_options_of_training_have_its_names_and_choices():
    from argparse import ArgumentParser

    training = ArgumentParser()
    ScomoeModel.add_args(training)
    of_training = {flag: a for a in training._actions for flag in a.option_strings}
    shared = [a for a in get_parser()._actions if a.option_strings[0] in of_training]
    assert len(shared) > 30
    for action in shared:
        theirs = of_training[action.option_strings[0]]
        assert action.dest == theirs.dest and action.const == theirs.const
        assert tuple(action.choices or ()) == tuple(theirs.choices or ()), action.option_strings
    unknown = {a.dest for a in get_parser()._actions if a.dest.startswith(("moe_", "scomoe_"))}
    assert unknown <= {a.dest for a in of_training.values()}
