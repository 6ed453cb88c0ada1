"""A plan in figures."""

from collections.abc import Sequence
from typing import Any

from user_dir.planning.plan import Outcome, Plan
from user_dir.planning.tables import MEMORY_PARTS, TIME_PARTS, shown
from user_dir.reporting.figures import COLOURS, WIDTH, Figure, Spec

_FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the bandwidth between nodes
_MOST_LINES = 6


def time_bars(plan: Plan) -> Figure:
    """An update by what it goes to, for every way of exchange."""
    cells = [
        {"exchange": one.method.name, "part": words, "ms": round(1e3 * one.time.parts[key], 4)}
        for one in shown(plan)
        for key, words in TIME_PARTS.items()
        if one.time.parts[key]
    ]
    slowest = max(shown(plan), key=lambda one: one.time.total)
    fastest = min(shown(plan), key=lambda one: one.time.total)
    return Figure(
        key="time",
        title="Time of an update",
        alternative=f"Milliseconds of an update by part for {len(shown(plan))} ways of exchange: "
        f"{_ms(slowest)} with {slowest.method.name}, {_ms(fastest)} with {fastest.method.name}.",
        spec=_bars(cells, "exchange", "ms", "part", "milliseconds"),
        note="Exchange is what nothing else is done beside.",
    )


def byte_bars(plan: Plan) -> Figure:
    """What a rank sends, for every way of exchange."""
    cells = [
        {"exchange": one.method.name, "way": words, "MB": round(value / 1e6, 4)}
        for one in shown(plan)
        for words, value in zip(("in its node", "between nodes"), one.num_bytes[1:], strict=True)
    ]
    most = max(shown(plan), key=lambda one: one.num_bytes[2])
    least = min(shown(plan), key=lambda one: one.num_bytes[2])
    return Figure(
        key="bytes",
        title="Bytes of a rank",
        alternative="Megabytes that a rank sends in a forward pass, there and back: between nodes "
        f"{most.num_bytes[2] / 1e6:.2f} with {most.method.name}, {least.num_bytes[2] / 1e6:.2f} "
        f"with {least.method.name}.",
        spec=_bars(cells, "exchange", "MB", "way", "MB in a forward pass"),
        note="There and back; the backward pass sends as much again.",
    )


def memory_bars(plan: Plan) -> Figure:
    """What a rank holds, for every way of exchange."""
    cells = [
        {"exchange": one.method.name, "part": words, "GiB": round(parts[key] / 2**30, 5)}
        for one in shown(plan)
        for parts in [one.memory.parts]
        for key, words in MEMORY_PARTS.items()
        if parts[key]
    ]
    most = max(shown(plan), key=lambda one: one.memory.peak)
    return Figure(
        key="memory",
        title="Memory of a rank",
        alternative=f"GiB that a rank holds by part for {len(shown(plan))} ways of exchange; the "
        f"highest peak is {most.memory.peak / 2**30:.2f} GiB with {most.method.name}, of "
        f"{plan.machine.memory_gib:g}.",
        spec=_bars(cells, "exchange", "GiB", "part", "GiB"),
        note="All parts; the peak is less, for gradients come while activations go.",
    )


def grids(plan: Plan) -> list[Figure]:
    """Seq and Feat over α and β."""
    found = []
    for family, name in ("seq", "SCoMoE-Seq"), ("feat", "SCoMoE-Feat"):
        outcomes = [one for one in plan.outcomes if one.method.family == family]
        if len(outcomes) > 1:
            found.append(_grid(plan, outcomes, family=family, name=name))
    return found


def _grid(plan: Plan, outcomes: Sequence[Outcome], *, family: str, name: str) -> Figure:
    base = plan.gshard.time.total
    cells = [
        {
            "alpha": f"{one.method.options['ratio1']:g}",
            "beta": f"{one.method.options['ratio2']:g}",
            "time": round(one.time.total / base, 3),
        }
        for one in outcomes
    ]
    best = min(outcomes, key=lambda one: one.time.total)
    field = {"field": "time", "type": "quantitative", "title": "of GShard's time"}
    scale = {"scheme": "viridis", "reverse": True}
    axes: Spec = {
        "x": {"field": "alpha", "type": "ordinal", "title": "ratio1, on the rank"}
        | {"axis": {"labelAngle": 0}},
        "y": {"field": "beta", "type": "ordinal", "title": "ratio2, in the node"},
    }
    spec: Spec = {
        "width": WIDTH - 60,
        "height": {"step": 26},
        "data": {"values": cells},
        "encoding": axes,
        "layer": [
            {
                "mark": {"type": "rect", "aria": False},
                "encoding": {"color": {**field, "scale": scale, "legend": None}},
            },
            {
                "mark": {"type": "text", "fontSize": 11, "stroke": "black", "strokeWidth": 2.5},
                "encoding": {"text": {"field": "time", "format": ".2f"}},
            },
            {
                "mark": {"type": "text", "fontSize": 11, "color": "white"},
                "encoding": {"text": {"field": "time", "format": ".2f"}},
            },
        ],
    }
    return Figure(
        key=family,
        title=f"{name} over its ratios",
        alternative=f"Time of an update with {name} as a share of GShard's over {len(cells)} pairs "
        f"of ratios; the shortest is {best.time.total / base:.2f} with {best.method.name}.",
        spec=spec,
        note="The larger the ratios, the less is open to a token.",
    )


def bandwidth_curves(plan: Plan) -> Figure:
    """How the times change with the link between nodes."""
    chosen = shown(plan)
    names = ("gshard", "hierarchical", "bottleneck", "seq", "feat")
    kept: list[Outcome] = [o for o in (plan.asked, plan.best) if o is not None]
    for family in names:
        kept += [one for one in chosen if one.method.family == family][:1]
    unique = list({one.method.name: one for one in kept}.values())[:_MOST_LINES]
    points: list[dict[str, Any]] = []
    for factor in _FACTORS:
        gbit = plan.machine.gbit_between * factor
        machine = plan.machine.changed({"gbit_between": gbit})
        for one in unique:
            seconds = plan.on(machine, one).time.total
            points.append(
                {"Gbit/s": gbit, "ms": round(1e3 * seconds, 3), "exchange": one.method.name}
            )
    return Figure(
        key="bandwidth",
        title="With another link between nodes",
        alternative="Milliseconds of an update over the bandwidth between nodes, from an eighth to "
        f"eight times {plan.machine.gbit_between:g} Gbit/s, for "
        f"{', '.join(one.method.name for one in unique)}.",
        spec={
            "width": WIDTH - 50,
            "height": 200,
            "data": {"values": points},
            "mark": {"type": "line", "point": True, "aria": False},
            "encoding": {
                "x": {
                    "field": "Gbit/s",
                    "type": "quantitative",
                    "scale": {"type": "log", "nice": False},
                    "axis": {"values": [point["Gbit/s"] for point in points], "format": "~r"},
                    "title": "Gbit/s of a node",
                },
                "y": {
                    "field": "ms",
                    "type": "quantitative",
                    "scale": {"type": "log", "nice": False},
                    "axis": {"tickCount": 5, "format": "~r"},
                    "title": "milliseconds",
                },
                "color": {"field": "exchange", "type": "nominal", "sort": None, "title": None},
                "tooltip": [{"field": "exchange"}, {"field": "Gbit/s"}, {"field": "ms"}],
            },
        },
    )


def _bars(cells: list[dict[str, Any]], name: str, value: str, part: str, title: str) -> Spec:
    order = list(dict.fromkeys(cell[part] for cell in cells))
    return {
        "width": WIDTH - 120,
        "height": {"step": 18},
        "data": {"values": cells},
        "mark": {"type": "bar", "aria": False},
        "encoding": {
            "y": {"field": name, "type": "nominal", "sort": None, "title": None},
            "x": {"field": value, "type": "quantitative", "title": title},
            "color": {
                "field": part,
                "type": "nominal",
                "sort": order,
                "title": None,
                "scale": {"domain": order, "range": _colours(len(order))},
                # Many names side by side would be wider than the bars.
                "legend": {"columns": 2 if len(order) < 4 else 1, "symbolStrokeWidth": 0},
            },
            "tooltip": [{"field": name}, {"field": part}, {"field": value}],
        },
    }


def _colours(count: int) -> list[str]:
    return [*COLOURS, "#444b55"][:count]


def _ms(outcome: Outcome) -> str:
    return f"{1e3 * outcome.time.total:.1f}"
