"""A figure: a Vega-Lite specification with its words, drawn as SVG, PNG or PDF.

Text takes the colour of what surrounds it, so one drawing serves a light and a dark page.
"""

import json
from dataclasses import dataclass
from typing import Any

import vl_convert

Spec = dict[str, Any]

WIDTH = 320  # so narrow that a phone shows it at full size
VEGA_LITE = "6.4"
_MANY_UPDATES = 10_000
# Told apart by the colour-blind too, on a light and a dark page.
COLOURS = ("#3b82c4", "#d9822b", "#2f9e6e", "#c2558f", "#8a6fd1", "#a8921f", "#c4553f", "#6f7f8f")
INK = "currentColor"
_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "tickColor": INK,
        "domainColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.12,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "labelLimit": 260,
        "orient": "bottom",
        "columns": 2,
        "symbolStrokeColor": INK,
    },
    "header": {"labelColor": INK, "titleColor": INK},
    "range": {"category": list(COLOURS)},
}


def updates_axis(most: int, *, ticks: int, grid: bool = True) -> Spec:
    """Of updates up to so many, in thousands where they are many."""
    return {"format": "~s" if most >= _MANY_UPDATES else "d", "tickCount": ticks, "grid": grid}


@dataclass(frozen=True)
class Figure:
    """What is drawn, and what is said about it."""

    key: str  # the name of its file
    title: str
    alternative: str  # for whoever does not see it
    spec: Spec
    note: str = ""  # how to read it

    @property
    def whole_spec(self) -> Spec:
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "description": self.alternative,
            "config": _CONFIG,
            "padding": 4,
            **self.spec,
        }

    def svg(self) -> str:
        return vl_convert.vegalite_to_svg(self.whole_spec, vl_version=VEGA_LITE)

    def drawn(self, form: str) -> bytes:
        """As a file of its own, svg, png or pdf: black on white."""
        spec = self._on_paper()
        if form == "svg":
            return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE).encode()
        if form == "png":
            return vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, ppi=300)
        return vl_convert.vegalite_to_pdf(spec, vl_version=VEGA_LITE)

    def _on_paper(self) -> Spec:
        return json.loads(json.dumps(self.whole_spec).replace(INK, "black")) | {
            "background": "white"
        }


def runtime() -> str:
    """The script that makes figures answer the pointer, as one text."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
