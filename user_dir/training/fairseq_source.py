"""The names that fairseq's command line takes, read from its source in a fraction of a second.

Importing fairseq takes seconds, too long for being told of a misspelt option. What is found here is
more than fairseq takes in any one command, so that only what nobody knows is refused by it.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]
_FLAG = re.compile(r"""["'](--?[a-zA-Z][\w-]*)["']""")
_FIELD = re.compile(r"^    (\w+) ?:", re.MULTILINE)  # of a dataclass, among others
_REGISTERED = re.compile(
    r"""@register_(?:model_architecture\(\s*(?:model_name=)?["'][^"']*["'],\s*(?:arch_name=)?"""
    r"""|(\w+)\(\s*(?:name=)?)["']([\w.-]+)["']"""
)
# Fields of the transformer are options of each of its sides as well.
_PREFIXES = ("", "encoder-", "decoder-", "quant-noise-", "adaptive-softmax-")


@dataclass(frozen=True)
class Known:
    """Options, and by the option the names that it takes, such as those of --arch."""

    flags: frozenset[str]
    names: dict[str, frozenset[str]]


@cache
def names_known() -> Known | None:
    """What fairseq and this package declare; None: fairseq's source is nowhere to be found."""
    found = find_spec("fairseq")
    if found is None or not found.submodule_search_locations:
        return None
    flags: set[str] = set()
    names: dict[str, set[str]] = {}
    for folder in (Path(found.submodule_search_locations[0]), _HERE):
        for path in folder.rglob("*.py"):
            text = path.read_text(encoding="utf-8", errors="replace")
            flags.update(_FLAG.findall(text))
            for field in _FIELD.findall(text):
                flag = field.replace("_", "-")
                flags.update(f"--{prefix}{flag}" for prefix in _PREFIXES)
            for kind, name in _REGISTERED.findall(text):
                # A model is an architecture as well.
                option = "--arch" if kind in ("", "model") else f"--{kind.replace('_', '-')}"
                names.setdefault(option, set()).add(name)
    return Known(frozenset(flags), {key: frozenset(value) for key, value in names.items()})
