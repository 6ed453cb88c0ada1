"""The names that fairseq's command line takes, read from its source in a fraction of a second.

Importing fairseq takes seconds, too long for being told of a misspelt option. What is found here is
more than fairseq takes in any one command, so that only what nobody knows is refused by it.
"""

import re
from collections.abc import Collection, Iterator
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
# Declarations with a type: fields of dataclasses, and what argparse is told.
_TYPED_FIELD = re.compile(r"^    (\w+): ([^=\n]+?) = field\(", re.MULTILINE)
_ARGUMENTS = re.compile(r"""\badd_argument\(\s*((?:["'][^"']*["'],\s*)+)""")
_TYPE = re.compile(r"\btype=(\w+)")
_LONGEST = 600  # letters of a declaration
_NUMBERS = {"int": "int", "Optional[int]": "int", "float": "float", "Optional[float]": "float"}
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


def numbers_among(flags: Collection[str]) -> dict[str, str]:
    """Those of the options that fairseq declares as numbers wherever it does: "int" or "float"."""
    found = find_spec("fairseq") if flags else None
    if found is None or not found.submodule_search_locations:
        return {}
    names = [*flags, *(flag.removeprefix("--").replace("-", "_") + ": " for flag in flags)]
    kinds: dict[str, set[str]] = {flag: set() for flag in flags}
    for path in Path(found.submodule_search_locations[0]).rglob("*.py"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if any(name in text for name in names):
            for flag, kind in _typed(text):
                if flag in kinds:
                    kinds[flag].add(kind)
    return {flag: min(of) for flag, of in kinds.items() if len(of) == 1 and of != {""}}


def _typed(text: str) -> Iterator[tuple[str, str]]:
    """(Option, its kind of number, empty if it is none) of every declaration in a file."""
    for name, type_ in _TYPED_FIELD.findall(text):
        yield f"--{name.replace('_', '-')}", _NUMBERS.get(type_, "")
    starts = list(_ARGUMENTS.finditer(text))
    for start, following in zip(starts, [*starts[1:], None], strict=False):
        end = following.start() if following else len(text)
        found = _TYPE.search(text, start.end(), min(end, start.end() + _LONGEST))
        is_list = "nargs" in text[start.end() : min(end, start.end() + _LONGEST)]
        kind = "" if is_list or found is None else _NUMBERS.get(found[1], "")
        for flag in _FLAG.findall(start[1]):
            yield flag, kind
