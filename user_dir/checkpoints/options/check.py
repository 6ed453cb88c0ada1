"""The check of a checkpoint's options, before anything of fairseq sees them."""

import argparse
import math
from collections.abc import Iterator, Mapping
from typing import Any

from user_dir.checkpoints.options.declared import complaint, declarations
from user_dir.checkpoints.options.known import CRITERIA, MODELS, TASKS
from user_dir.checkpoints.options.named_files import check_named_files
from user_dir.errors import UserError

_DEEPEST = 8
_LARGEST = 2**63
# In what order fairseq looks for the name of a part, in its own group of options or in all.
_PARTS = {"model": ("arch", MODELS), "task": ("task", TASKS), "criterion": ("criterion", CRITERIA)}


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets checkpoints name what is not for translation."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="take a checkpoint whose architecture, task or criterion is neither ours nor one of "
        "fairseq's for translation; whatever it does with its options is then done",
    )


def check_options(state: Mapping[str, Any], *, trusted: bool = False) -> None:
    """Refuse options that could make fairseq run, read or expand what they name.

    Args:
        trusted: whether parts of fairseq that do not translate may be named.

    Raises:
        UserError: an option is none of its declared type, would be interpolated, or names
            something unknown; the message names the option.
    """
    groups = option_groups(state)
    architecture = _architecture(groups)
    if not trusted:
        _check_parts(groups)
    for options in groups.values():
        for name, value in options.items():
            _check_plain(name, value)
            _check_type(name, value, architecture)
        check_named_files(options)


def option_groups(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options by fairseq's groups; the flat ones of older files as the group "args".

    Raises:
        UserError: they are no dictionaries of options.
    """
    groups: dict[str, dict[str, Any]] = {}
    for key in "args", "cfg":
        if state.get(key) is None:
            continue
        options = _as_dict(state[key])
        if options is None:
            raise UserError(f"its {key} is {_kind(state[key])}, where it must hold the options")
        if key == "args":
            groups["args"] = options
            continue
        for name, value in options.items():
            group = _as_dict(value)
            if group is not None:
                groups[name] = group
            else:
                groups.setdefault("cfg", {})[name] = value
    return groups


def _as_dict(value: Any) -> dict[str, Any] | None:
    options = vars(value) if isinstance(value, argparse.Namespace) else value
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        return None
    return options


def _architecture(groups: Mapping[str, Mapping[str, Any]]) -> str | None:
    options = groups.get("args") or groups.get("model") or {}
    name = options.get("arch") or options.get("_name")
    return name if isinstance(name, str) else None


def _check_parts(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """See that wherever a part may be looked up by name, the name is a known one."""
    for part, (option, known) in _PARTS.items():
        for group, options in groups.items():
            names = [options.get(option)]
            if group == part:
                names.append(options.get("_name"))
                if part == "model" and not any(names):
                    raise UserError("its options name no architecture")
            for name in filter(None, names):
                if not isinstance(name, str) or _part(part, name) not in known:
                    raise UserError(
                        f"its option {option} is {_quoted(name)}, which is not among ours or "
                        "fairseq's for translation; for a file that you trust, --trust-checkpoint "
                        "(with fairseq's own commands: without --user-dir) takes it"
                    )


def _part(part: str, name: str) -> str | None:
    """The model of an architecture; of tasks and criteria the name."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY

    if part != "model":
        return name
    return ARCH_MODEL_NAME_REGISTRY.get(name, name if name in MODEL_REGISTRY else None)


def _check_plain(name: str, value: Any) -> None:
    """Refuse what is no plain data, and what omegaconf or hydra would expand."""
    for one in _leaves(name, value):
        if isinstance(one, str):
            if "${" in one:
                raise UserError(
                    f"its option {name[:60]} is {_quoted(one)}, which would be expanded"
                )
        elif isinstance(one, (int, float)):
            if not math.isfinite(one) or abs(one) > _LARGEST:
                raise UserError(f"its option {name[:60]} is a number that nothing can mean")
        elif one is not None:
            raise UserError(f"its option {name[:60]} is {_kind(one)}, which is no option's value")


def _leaves(name: str, value: Any, depth: int = 0) -> Iterator[Any]:
    if depth > _DEEPEST:
        raise UserError(f"its option {name[:60]} is nested too deeply")
    if depth == 0:
        yield name
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(name, key, depth + 1)
            yield from _leaves(name, one, depth + 1)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(name, one, depth + 1)
    else:
        yield value


def _check_type(name: str, value: Any, architecture: str | None) -> None:
    wrong = complaint(name, value, declarations(architecture).get(name, ()))
    if wrong:
        raise UserError(f"its option {name} is {_quoted(value)}, but {wrong}")


def _quoted(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"
