"""One file of HTML that needs nothing else: figures drawn, with scripts that let them answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from user_dir.reporting.figures import Figure, runtime

# With the runtime a page answers the pointer; without it, it only shows.
_MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class Section:
    """Figures under a heading, which `key` links to."""

    key: str
    title: str
    figures: list[Figure]
    why_empty: str  # said where there are none


def named(sections: Sequence[Section]) -> dict[str, Figure]:
    """The figures of all sections by a name for their file."""
    return {
        f"{section.key}-{figure.key}": figure for section in sections for figure in section.figures
    }


def fill_page(
    template: str, known: Mapping[str, Any], sections: Sequence[Section], *, package: str
) -> str:
    """The page of a template, with the script of its figures where it stays below 2 MB.

    Args:
        sections: all figures that the template shows.
        package: whose templates it is among.
    """
    known = {**known, "svgs": _drawn(sections)}
    quiet = _fill(template, {**known, "specs": None, "runtime": None}, package)
    specs, script = _specs(sections), runtime()
    if len(quiet.encode()) + len(specs.encode()) + len(script.encode()) > _MOST_BYTES:
        return quiet
    return _fill(template, {**known, "specs": specs, "runtime": script}, package)


def _fill(template: str, known: dict[str, Any], package: str) -> str:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("user_dir.reporting")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(known)


def _drawn(sections: Sequence[Section]) -> dict[str, str]:
    # Ids of clip paths start anew in every drawing; in one page they must differ.
    return {
        key: figure.svg().replace('"clip', f'"{key}-clip').replace("url(#clip", f"url(#{key}-clip")
        for key, figure in named(sections).items()
    }


def _specs(sections: Sequence[Section]) -> str:
    specs = {key: figure.whole_spec for key, figure in named(sections).items()}
    # No text of a figure may end the script that holds it.
    return json.dumps(specs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
