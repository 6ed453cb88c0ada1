"""Makes a mixture of a dense model that computes what the dense model does.

Sparse upcycling (Komatsuzaki et al., ICLR 2023): the experts of a layer start as copies of the
dense feed-forward layer. The weights of a GShard gate add up to 1, so whatever the gates do, the
mixture gives at first what the dense layer gives, unless an expert is full.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from fairseq.models.transformer import TransformerConfig, base_architecture
from torch import Tensor, nn

from user_dir.checkpoints.upcycling import upcycled_weights
from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.experts.shared import SharedExpert
from user_dir.fast_moe.gating.gates import GShardGate, SwitchGate
from user_dir.transformer.flags import add_moe_options, add_scomoe_options
from user_dir.transformer.layer_order import order_layers
from user_dir.transformer.model import ScomoeModel
from user_dir.transformer.sizes import SIZES

# Of the weights of a gate: small, so that no expert is far ahead at first.
_GATE_STD = 0.02
# What only acts on how a model is trained, or on where its first weights come from.
_LEFT_BEHIND = (
    "encoder_layerdrop",
    "decoder_layerdrop",
    "encoder_embed_path",
    "decoder_embed_path",
)


def upcycle(
    options: Mapping[str, Any], weights: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[Namespace, dict[str, Tensor]]:
    """The mixture that a dense model becomes.

    Args:
        options: of the dense model, as its checkpoint holds them.
        weights: of the dense model.
        given: options of the mixture by name, None where it is not given; "arch" and "seed" too.

    Returns:
        the options of the mixture, and its weights: of all experts.

    Raises:
        UserError: the model is no dense Transformer, or the mixture would compute something else.
    """
    _check_dense(options)
    kept = _kept_options(options)
    task = _task_of(weights, shares=bool(kept.get("share_all_embeddings")))
    dense = ScomoeModel.build_model(Namespace(**kept), task)
    dense.load_state_dict(dict(weights))
    args = _mixture_options(kept, given)
    check_same_function(MoeConfig.from_args(args), args)
    torch.manual_seed(given["seed"])
    model = ScomoeModel.build_model(args, task)
    _start_small(model)
    return args, upcycled_weights(dense.state_dict(), model.state_dict())


def check_same_function(config: MoeConfig, args: Namespace) -> None:
    """Refuse a mixture of copies of a dense layer that would not compute what the layer does.

    Raises:
        UserError: says which option is to blame, and why.
    """
    if not config.has_moe:
        raise UserError(
            "no layer would be a mixture, since --moe-freq is 0; --moe-freq 2 --moe-expert-count 8 "
            "would do, and so would --arch scomoe_base"
        )
    gate, shared = config.gate, config.shared
    flag = "--token-cluster" if config.token_cluster else "--reorder-layers"
    _refuse(
        config.reorders,
        flag,
        "puts all mixtures behind all attention, an order that no dense model has its layers in",
    )
    _refuse(
        gate.top1 and config.num_experts > 1,
        "--moe-top1-expert",
        f"weights an expert by its probability, about 1/{config.num_experts} at first, where the "
        "dense layer counts fully",
    )
    _refuse(
        gate.expert_choice,
        "--moe-expert-choice",
        "weights an expert by its probability, and leaves out tokens that no expert takes",
    )
    _refuse(
        config.scomoe_type == "bottleneck",
        "--scomoe-type bottleneck",
        f"lets {config.exchange_dim} features through, fewer than the dense layer reads",
    )
    _refuse(
        config.layernorm_after_moe,
        "--layernorm-after-moe-layer",
        "normalises what the dense layer gives as it is",
    )
    for name, share in ("--moe-eom", shared.expert_masking), ("--moe-fom", shared.final_masking):
        _refuse(share > 0, name, f"scales outputs by {1 - share:g} at evaluation")
    for stack in "encoder", "decoder":
        _check_stack(config, args, stack)


def _check_stack(config: MoeConfig, args: Namespace, stack: str) -> None:
    num_layers = getattr(args, f"{stack}_layers")
    kinds = order_layers(config, stack=stack, num_layers=num_layers).mixtures
    if not kinds:
        return
    hidden_dim, dim = (getattr(args, f"{stack}_{name}_dim") for name in ("ffn_embed", "embed"))
    for flag, width, is_copied in (
        ("--moe-expert-ffn-dim", config.expert_ffn_dim, True),
        ("--moe-shared-expert-ffn-dim", config.shared.ffn_dim, config.shared.conditional),
    ):
        _refuse(
            is_copied and width not in (None, hidden_dim),
            f"{flag} {width}",
            f"is not the hidden width of the {stack}'s dense layers, {hidden_dim}",
        )
    if LayerKind.FEAT in kinds:
        slices = [size for size in config.shares.features(dim).values() if size]
        _refuse(
            len(slices) > 1,
            f"--scomoe-type feat --ratio1 {config.ratio1:g} --ratio2 {config.ratio2:g}",
            f"gives an expert {' or '.join(map(str, slices))} of the {dim} features, while every "
            "hidden value of the dense layer reads all of them",
        )


def _refuse(condition: bool, flag: str, why: str) -> None:
    if condition:
        raise UserError(
            f"{flag} {why}, so the mixture would not start as the dense model; leave it out"
        )


def training_options(args: Namespace) -> list[str]:
    """The options of the command line that make this model of its architecture."""
    parser, declared = ArgumentParser(add_help=False), ArgumentParser(add_help=False)
    ScomoeModel.add_args(parser)  # without defaults
    gen_parser_from_dataclass(declared, TransformerConfig(), with_prefix="")
    usual = Namespace(**{action.dest: action.default for action in declared._actions})
    of_arch = Namespace(arch=args.arch)
    ARCH_CONFIG_REGISTRY[args.arch](of_arch)
    vars(usual).update(vars(of_arch))
    words = ["--arch", args.arch]
    for action in parser._actions:
        value, default = (vars(options).get(action.dest) for options in (args, usual))
        if value == default or value is None or (value is False and not default):
            continue
        words.append(action.option_strings[0])
        if action.nargs != 0:
            words.append(str(value))
    return words


def _check_dense(options: Mapping[str, Any]) -> None:
    name = options.get("arch") or options.get("_name")
    if ARCH_MODEL_NAME_REGISTRY.get(name, name) not in ("scomoe", "transformer"):
        raise UserError(
            f"its architecture is {name}, whose layers are not those of fairseq's transformer; "
            "only models of that kind become mixtures"
        )
    if MoeConfig.from_args(Namespace(**options)).has_moe:
        raise UserError("it has experts already; name the checkpoint of a dense model")


def _kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the dense model itself: none of its training, and none of a mixture."""
    of_model, of_mixture = ArgumentParser(add_help=False), ArgumentParser(add_help=False)
    ScomoeModel.add_args(of_model)
    add_moe_options(of_mixture)
    add_scomoe_options(of_mixture)
    names = {action.dest for action in of_model._actions}
    names -= {action.dest for action in of_mixture._actions} | set(_LEFT_BEHIND)
    kept = {name: options[name] for name in sorted(names) if options.get(name) is not None}
    args = Namespace(**kept)
    base_architecture(args)  # what older checkpoints do not name
    return vars(args)


def _mixture_options(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Namespace:
    """The dense model's options, then the command line's, then those of the architecture."""
    arch = given["arch"]
    args = Namespace(**kept)
    for name, value in SIZES[arch].items():
        if value is True and not vars(args).get(name):  # no command line could say so
            raise UserError(
                f"--arch {arch} has --{name.replace('_', '-')}, which the dense model has not; "
                "--arch scomoe with --moe-freq and --moe-expert-count would do"
            )
    vars(args).update({name: value for name, value in given.items() if value is not None})
    args._name = arch
    ARCH_CONFIG_REGISTRY[arch](args)
    return args


def _task_of(weights: Mapping[str, Tensor], *, shares: bool) -> SimpleNamespace:
    """What fairseq's models ask of a task: dictionaries, here of nothing but the right size."""
    sizes = []
    for stack in "encoder", "decoder":
        embedding = weights.get(f"{stack}.embed_tokens.weight")
        if embedding is None:
            raise UserError(f"it has no {stack}.embed_tokens.weight, as adaptive inputs have none")
        sizes.append(len(embedding))
    source = _dictionary(sizes[0])
    target = source if shares else _dictionary(sizes[1])
    return SimpleNamespace(source_dictionary=source, target_dictionary=target)


def _dictionary(size: int) -> Dictionary:
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(f"symbol{index}")
    return dictionary


def _start_small(model: nn.Module) -> None:
    """Draw gates; let shared networks that are added to the experts add nothing yet."""
    for module in model.modules():
        if isinstance(module, GShardGate | SwitchGate):
            nn.init.normal_(module.projection.weight, std=_GATE_STD)
        if isinstance(module, SharedExpert) and module.gate is None:
            nn.init.zeros_(module.fc2.weight)
            nn.init.zeros_(module.fc2.bias)
