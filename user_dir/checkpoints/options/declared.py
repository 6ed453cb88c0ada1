"""What fairseq and its plugin declare of every option: the type of its values, and its choices."""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from user_dir.checkpoints.options.literals import read_literal

# Passed to `eval` wherever fairseq uses them, whatever type they are declared with.
EVALUATED = frozenset(
    {
        "adafactor_eps",
        "adam_betas",
        "adamax_betas",
        "adaptive_input_cutoff",
        "adaptive_softmax_cutoff",
        "character_filters",
        "conv_aggregator_layers",
        "conv_feature_layers",
        "decoder_attention",
        "decoder_layers",
        "encoder_attention",
        "encoder_layers",
        "feature_encoder_spec",
        "gated_attention",
        "lamb_betas",
        "left_pad_source",
        "left_pad_target",
        "pipeline_balance",
        "pipeline_decoder_balance",
        "pipeline_decoder_devices",
        "pipeline_devices",
        "pipeline_encoder_balance",
        "pipeline_encoder_devices",
        "pretrained",
        "project_input",
        "self_attention",
        "wer_args",
        "xformers_att_config",
    }
)

# Declared without a type, which are strings before tasks make lists of them.
_WORDS = frozenset({"data", "lang_pairs", "langs", "source_lang", "target_lang"})


class _Declarations:
    """Takes the place of a parser, and keeps what is declared of each option."""

    def __init__(self) -> None:
        self._parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        self.of: dict[str, list[argparse.Action]] = {}

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        action = self._parser.add_argument(*names, **settings)
        self.of.setdefault(action.dest, []).append(action)
        return action

    def add_argument_group(self, *_: Any, **__: Any) -> "_Declarations":
        return self

    add_mutually_exclusive_group = add_argument_group

    def add_from(self, registered: Any) -> None:
        """The options of a dataclass, or of a class with `add_args`."""
        from fairseq.dataclass.utils import gen_parser_from_dataclass

        if callable(getattr(registered, "add_args", None)):
            registered.add_args(self)
        else:
            gen_parser_from_dataclass(self, registered())


@cache
def declarations(architecture: str | None) -> dict[str, list[argparse.Action]]:
    """By name what is declared of an option: more than once where several parts have it.

    Args:
        architecture: whose options count; the same name may be declared otherwise by another.
    """
    from fairseq.dataclass import configs
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    from user_dir.checkpoints.options.known import TASKS

    declared = _Declarations()
    declared.add_from(configs.FairseqConfig)
    declared.add_argument("--arch")
    for name in TASKS & TASK_REGISTRY.keys():
        declared.add_from(TASK_DATACLASS_REGISTRY.get(name, TASK_REGISTRY[name]))
    for name, registry in REGISTRIES.items():
        declared.add_argument(f"--{name.replace('_', '-')}", choices=tuple(registry["registry"]))
        for one in registry["registry"]:
            declared.add_from(registry["dataclass_registry"].get(one, registry["registry"][one]))
    if architecture in ARCH_MODEL_REGISTRY:
        declared.add_from(ARCH_MODEL_REGISTRY[architecture])
    return declared.of


def complaint(name: str, value: Any, actions: Sequence[argparse.Action]) -> str | None:
    """What is wrong with the value of an option; None if nothing is."""
    if name in EVALUATED:
        if isinstance(value, str) and not _is_literal(value):
            return "must be a literal of Python's"
        if _is_numbers(value):  # what the literal stands for
            return None
    if name in _WORDS and value is not None and not _is_words(value):
        return "must be a string"
    if not actions or value is None or any(_accepts(action, value) for action in actions):
        return None
    return f"must be {' or '.join(sorted({_describe(action) for action in actions}))}"


def _accepts(action: argparse.Action, value: Any) -> bool:
    if type(value) is type(action.default) and value == action.default:
        return True
    if _is_switch(action):
        return isinstance(value, bool)
    if isinstance(value, (list, tuple)) and action.nargs not in (None, "?"):
        return all(_accepts_one(action, one) for one in value)
    return _accepts_one(action, value)


def _accepts_one(action: argparse.Action, value: Any) -> bool:
    if action.choices is not None:
        return any(value == choice for choice in action.choices)
    if action.type in _PLAIN:
        return _PLAIN[action.type](value)
    # Made by a function from a string: a number that it takes, no string that it would evaluate.
    if _is_number(value):
        return _takes(action.type, repr(value))
    return not isinstance(value, str) or _is_literal(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_number, value))


def _is_words(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    )


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    None: lambda value: isinstance(value, (bool, int, float)) or _is_words(value),
    str: lambda value: isinstance(value, str),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: _is_number,
    bool: lambda value: isinstance(value, bool),
}


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == 0


def _takes(function: Any, text: str) -> bool:
    try:
        function(text)
    except (argparse.ArgumentTypeError, TypeError, ValueError):
        return False
    return True


def _is_literal(text: str) -> bool:
    try:
        read_literal(text)
    except ValueError:
        return False
    return True


def _describe(action: argparse.Action) -> str:
    if _is_switch(action):
        return "True or False"
    if action.choices is not None:
        return "one of its choices"
    names: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False"}
    return names.get(action.type, "a string" if action.type in _PLAIN else "a value of its type")
