"""Where a run's tokens went: loads over time, reaches, languages; layer by layer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from user_dir.reporting.figures import COLOURS, WIDTH, Figure, Spec, updates_axis
from user_dir.reporting.runs import Record, Run

# Cells of all maps of one sort, so that a page stays small; rows of one map.
_MOST_CELLS, _MOST_ROWS = 6000, 32
_REACHES = ("local", "node", "global")
_IN_WORDS = {"local": "on its rank", "node": "in its node", "global": "anywhere"}
_BYTES = {"rank": "within ranks", "node": "within nodes", "between": "between nodes"}
OTHERS = "others"


def load_maps(run: Run) -> list[Figure]:
    """The load of every expert over time, a map for each layer."""
    rows = sum(min(_MOST_ROWS, len(_loads(run.train, layer)[0][1])) for layer in run.layers)
    columns = max(6, min(40, _MOST_CELLS // max(1, rows)))
    cells = {layer: _load_cells(_loads(run.train, layer), columns) for layer in run.layers}
    farthest = max((abs(c["load"] - 1) for of_layer in cells.values() for c in of_layer), default=0)
    spread = min(1.0, max(0.2, farthest))  # one scale for all layers
    return [_load_map(layer, of_layer, round(spread, 2)) for layer, of_layer in cells.items()]


def _loads(records: Iterable[Record], layer: str) -> list[tuple[int, list[int]]]:
    found = [(r["updates"], r["layers"][layer]["load"]) for r in records if layer in r["layers"]]
    width = len(found[-1][1])
    return [(updates, load) for updates, load in found if len(load) == width]


def _load_cells(loads: Sequence[tuple[int, list[int]]], columns: int) -> list[dict[str, Any]]:
    """Loads relative to an even share, of some consecutive records together."""
    stride = -(-len(loads) // columns)
    cells: list[dict[str, Any]] = []
    start = 0
    for first in range(0, len(loads), stride):
        part = loads[first : first + stride]
        named = _added_up([sum(of) for of in zip(*(load for _, load in part), strict=True)])
        even = sum(load for _, load in named) / len(named) or 1
        cells += [
            {"from": start, "to": part[-1][0], "expert": name, "load": round(load / even, 3)}
            for name, load in named
        ]
        start = part[-1][0]
    return cells


def _load_map(layer: str, cells: list[dict[str, Any]], spread: float) -> Figure:
    spec = _map(
        cells,
        x={"field": "from", "type": "quantitative", "title": "updates", "scale": {"nice": False}}
        | {"axis": updates_axis(cells[-1]["to"], ticks=5, grid=False)},
        value="load",
        title="times an even share",
        scale={"scheme": "blueorange", "domain": [1 - spread, 1, 1 + spread], "clamp": True},
    )
    spec["encoding"]["x2"] = {"field": "to"}
    last = [cell["load"] for cell in cells if cell["to"] == cells[-1]["to"]]
    return Figure(
        key=f"load-{layer}",
        title=f"Load of the experts, {layer}",
        alternative=f"Load of every expert of {layer} over updates, relative to an even share. At "
        f"the end the busiest has {max(last):.2f}, the idlest {min(last):.2f} times that share.",
        spec=spec,
    )


def reach_bars(run: Run) -> list[Figure]:
    """Shares of tokens and of bytes by how far they went, a bar for each layer."""
    figures = []
    layers = run.layers
    sums = {layer: _summed(run.train, layer) for layer in layers}
    for key, title, prefix, words in (
        ("tokens", "Tokens by reach", "tokens_", {r: _IN_WORDS[r] for r in _REACHES}),
        ("bytes", "Bytes sent in forward passes", "bytes_", _BYTES),
    ):
        rows = [
            {"layer": layer, "reach": word, "order": order, "share": sums[layer][prefix + reach]}
            for layer in layers
            for order, (reach, word) in enumerate(words.items())
        ]
        if any(row["share"] for row in rows):
            figures.append(_bars(key, title, rows, list(words.values()), layers))
    return figures


def _bars(
    key: str, title: str, rows: list[dict[str, Any]], words: list[str], layers: Sequence[str]
) -> Figure:
    whole = {layer: sum(r["share"] for r in rows if r["layer"] == layer) or 1 for layer in layers}
    for row in rows:
        row["share"] = round(row["share"] / whole[row["layer"]], 4)
    spoken = "; ".join(
        f"{layer} "
        + ", ".join(f"{row['share']:.0%} {row['reach']}" for row in rows if row["layer"] == layer)
        for layer in layers
    )
    return Figure(
        key=key,
        title=title,
        alternative=f"{title}, shares by layer: {spoken}.",
        spec={
            "width": WIDTH - 40,
            "height": {"step": 22},
            "data": {"values": rows},
            "mark": {"type": "bar", "height": 16},
            "encoding": {
                "y": {"field": "layer", "type": "nominal", "sort": list(layers), "title": None},
                "x": {
                    "field": "share",
                    "type": "quantitative",
                    "axis": {"format": ".0%", "tickCount": 5},
                    "scale": {"domain": [0, 1], "clamp": True},  # shares are rounded
                    "title": None,
                },
                "color": {
                    "field": "reach",
                    "scale": {"domain": words, "range": [COLOURS[2], COLOURS[0], COLOURS[1]]},
                    "title": None,
                },
                "order": {"field": "order"},
                "tooltip": [
                    {"field": "layer"},
                    {"field": "reach"},
                    {"field": "share", "format": ".1%"},
                ],
            },
        },
    )


def _summed(records: Iterable[Record], layer: str) -> dict[str, int]:
    """The sums of a layer over all updates that are recorded."""
    total: dict[str, int] = {}
    for record in records:
        for name, value in record["layers"].get(layer, {}).items():
            if name.startswith(("tokens_", "bytes_")):
                total[name] = total.get(name, 0) + value
    return total


def language_maps(run: Run) -> list[Figure]:
    """Which experts the tokens of each source and target language went to, late in the run."""
    maps: list[tuple[str, str, dict[str, list[int]]]] = []
    for layer in run.layers:
        by_direction = _by_direction(run.late, layer)
        for side, of_side in ("source", 0), ("target", 1):
            by_language: dict[str, list[int]] = {}
            for direction, load in by_direction.items():
                language = (direction.split("-", 1) * 2)[of_side] if "-" in direction else direction
                by_language[language] = _sum(by_language.get(language), load)
            if len(by_language) > 1:
                maps.append((layer, side, by_language))
    most = min(_MOST_ROWS, max(8, math.isqrt(_MOST_CELLS // max(1, len(maps)))))
    return [_language_map(layer, side, counts, most) for layer, side, counts in maps]


def _by_direction(records: Iterable[Record], layer: str) -> dict[str, list[int]]:
    total: dict[str, list[int]] = {}
    for record in records:
        for direction, load in record["layers"].get(layer, {}).get("by_direction", {}).items():
            total[direction] = _sum(total.get(direction), load)
    return total


def _sum(one: list[int] | None, other: list[int]) -> list[int]:
    return other if one is None else [a + b for a, b in zip(one, other, strict=True)]


def _language_map(layer: str, side: str, by_language: dict[str, list[int]], most: int) -> Figure:
    """A map of at most so many languages and groups of experts."""
    order = sorted(by_language, key=lambda language: -sum(by_language[language]))
    for language in order[most - 1 :] if len(order) > most else ():
        by_language[OTHERS] = _sum(by_language.get(OTHERS), by_language.pop(language))
    cells, spoken = [], []
    for language in sorted(by_language, key=lambda name: (name == OTHERS, name)):
        named = _added_up(by_language[language], most)
        total = sum(load for _, load in named) or 1
        cells += [
            {"language": language, "expert": name, "share": round(load / total, 4)}
            for name, load in named
        ]
        name, load = max(named, key=lambda one: one[1])
        spoken.append(f"{language} most to {name} ({load / total:.0%})")
    spec = _map(
        cells,
        x={"field": "expert", "type": "ordinal", "sort": None, "title": "expert"}
        | {"axis": {"labelAngle": 0, "labelOverlap": True}},
        y="language",
        value="share",
        title="share of the language's tokens",
        scale={"scheme": "blues", "domainMin": 0},
        form=".0%",
    )
    spec["height"] = {"step": 18}
    return Figure(
        key=f"languages-{side}-{layer}",
        title=f"{side.capitalize()} languages, {layer}",
        alternative=f"Share of the tokens of each {side} language that each expert of {layer} "
        f"served: {', '.join(spoken)}.",
        spec=spec,
    )


def _map(
    cells: list[dict[str, Any]],
    *,
    x: Spec,
    value: str,
    title: str,
    scale: Spec,
    y: str = "expert",
    form: str = ".2f",
) -> Spec:
    legend = {"format": form, "gradientLength": 200, "columns": 1, "titleLimit": 300}
    return {
        "width": WIDTH - 20,
        "height": {"step": 14},
        "data": {"values": cells},
        "mark": {"type": "rect", "aria": False},
        "encoding": {
            "x": x,
            "y": {"field": y, "type": "ordinal", "sort": None, "title": y}
            | {"axis": {"labelOverlap": True}},
            "color": {
                "field": value,
                "type": "quantitative",
                "scale": scale,
                "title": title,
                "legend": legend,
            },
            "tooltip": [
                {"field": y},
                {"field": "to" if "from" in cells[0] else "expert"}
                | {"title": "until update" if "from" in cells[0] else "expert"},
                {"field": value, "format": form, "title": title},
            ],
        },
    }


def _added_up(load: Sequence[int], most: int = _MOST_ROWS) -> list[tuple[str, int]]:
    """Loads by the name of the expert; of neighbours together where they are too many."""
    size = -(-len(load) // most)
    return [
        (str(first) if size == 1 else f"{first}–{first + len(part) - 1}", sum(part))
        for first in range(0, len(load), size)
        if (part := load[first : first + size])
    ]
