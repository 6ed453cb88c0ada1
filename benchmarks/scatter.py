"""Points with intervals and labels that keep apart: lower is better, and so is further left."""

from collections.abc import Sequence
from dataclasses import dataclass

from user_dir.reporting.figures import Spec

LINE = 13  # pixels between labels
_ROUNDS = 2000


@dataclass(frozen=True)
class Point:
    """A method's place.

    Attributes:
        family: that its colour tells.
        low, high: ends of the interval of y.
        is_own: whether both numbers are measured of it; drawn hollow where one is not.
    """

    label: str
    family: str
    x: float
    y: float
    low: float
    high: float
    is_own: bool = True


def label_heights(points: list[tuple[float, float]], *, apart: float, near: float) -> list[float]:
    """A height for each point's label, as near to its point as the others' labels let it.

    Args:
        points: places (x, y) on the paper, y upwards.
        apart: least distance of two labels that are near each other.
        near: how far labels reach to the right.
    """
    heights = [y for _, y in points]
    upwards = sorted(range(len(points)), key=lambda i: points[i][1])
    pairs = [
        (low, high)
        for place, low in enumerate(upwards)
        for high in upwards[place + 1 :]
        if abs(points[low][0] - points[high][0]) < near
    ]
    for _ in range(_ROUNDS):
        # Labels that are too near push each other away, in the order of their points.
        lacking = 0.0
        for low, high in pairs:
            lack = apart - (heights[high] - heights[low])
            if lack > 0:
                heights[low] -= lack / 2
                heights[high] += lack / 2
                lacking = max(lacking, lack)
        if lacking < apart / 100:
            break
    return heights


def scatter(
    points: Sequence[Point],
    *,
    families: Sequence[str],
    x_title: str,
    y_title: str,
    width: int,
    height: int,
) -> Spec:
    """The specification of a drawing without its legend's title.

    Args:
        families: all that there may be, in the legend's order.
    """
    most = max(point.x for point in points) * 1.35 + 0.1  # room for labels on the right
    of_pixel = (max(p.high for p in points) - min(p.low for p in points)) / height
    heights = label_heights(
        [(point.x, point.y) for point in points],
        apart=LINE * of_pixel,
        near=most * 200 / width,
    )
    values = [
        {
            "variant": point.label,
            "family": point.family,
            "x": point.x,
            "y": point.y,
            "low": point.low,
            "high": point.high,
            "own": point.is_own,
            "label": of_label,
        }
        for point, of_label in zip(points, heights, strict=True)
    ]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": [0, most]},
        "axis": {"tickCount": 8},
        "title": x_title,
    }
    y: Spec = {"type": "quantitative", "scale": {"zero": False}, "title": y_title}
    used = {point.family for point in points}
    colour = {"field": "family", "type": "nominal", "title": None}
    colour["legend"] = {"symbolOpacity": 1}
    colour["scale"] = {"domain": [name for name in families if name in used]}
    hollow = {"condition": {"test": "datum.own", "value": 1}, "value": 0}
    return {
        "width": width,
        "height": height,
        "data": {"values": values},
        "encoding": {"x": x, "color": colour},
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.3},
                "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"y": y | {"field": "y"}, "stroke": colour, "fillOpacity": hollow},
            },
            {  # from a point to its label
                "mark": {"type": "rule", "opacity": 0.45, "strokeWidth": 0.7, "x2Offset": 7},
                "encoding": {"x2": {"field": "x"}, "y": y | {"field": "y"}}
                | {"y2": {"field": "label"}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11},
                "encoding": {"text": {"field": "variant"}, "y": y | {"field": "label"}},
            },
        ],
    }
