"""`--model-overrides`: options of a checkpoint that are changed for one run."""

import argparse
import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

from user_dir.errors import UserError, did_you_mean

_UNKNOWN_TYPE = object()


def overrides(text: str) -> dict[str, Any]:
    """A type for argparse: a dictionary in Python's notation, with names as keys."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value)  # no sets, no bytes: no option has such a value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise argparse.ArgumentTypeError(
            "must be a dictionary in Python's notation, such as \"{'ratio1': 0.2}\", not "
            f"{text[:80]!a}"
        )
    return value


def check_overrides(given: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """See that a checkpoint has every option that is to be changed, and values of its type.

    fairseq itself ignores a name that it does not know.

    Raises:
        UserError: a name that the checkpoint does not have, or a value of another type.
    """
    saved = _options_of_layers() | dict(_saved_options(state))
    for name, value in given.items():
        if name not in saved:
            raise UserError(
                f"--model-overrides: the checkpoint has no option {name!a}{_near(name, saved)}"
            )
        if not _fits(value, saved[name]):
            raise UserError(
                f"--model-overrides: {name} must be {_kind(saved[name])} as in the checkpoint "
                f"({saved[name]!a}), not {value!a}"
            )


def _saved_options(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every option of a checkpoint, whichever group of fairseq's it is in."""
    groups = state.get("cfg")
    options = {"args": state["args"]} if groups is None else groups
    for name, group in options.items():
        yield name, _UNKNOWN_TYPE
        values = group if isinstance(group, Mapping) else getattr(group, "__dict__", {})
        yield from ((str(key), value) for key, value in values.items())


def _options_of_layers() -> dict[str, Any]:
    """The options of our layers, which an older checkpoint may lack."""
    # Here, not at the top: --help and mistakes in the options need no torch.
    from user_dir.transformer.flags import add_moe_options, add_scomoe_options

    parser = argparse.ArgumentParser(add_help=False)
    add_moe_options(parser)
    add_scomoe_options(parser)
    return dict.fromkeys(vars(parser.parse_args([])), _UNKNOWN_TYPE)


def _fits(value: Any, saved: Any) -> bool:
    if saved is _UNKNOWN_TYPE or saved is None or value is None:
        return True
    return _kind(value) == _kind(saved)


def _kind(value: Any) -> str:
    # bool first, which is an int; a default such as 0 may belong to an option with decimals.
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, (int, float)):
        return "a number"
    return "a string" if isinstance(value, str) else "a list"


def _near(name: str, known: Mapping[str, Any]) -> str:
    plain = name.replace("-", "_").lstrip("_")
    return did_you_mean(plain, known, otherwise="; --help of fairseq-train lists the options")
