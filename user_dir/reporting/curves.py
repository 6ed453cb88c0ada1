"""Curves over the updates of one or several runs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from user_dir.reporting.figures import INK, WIDTH, Figure, Spec, updates_axis
from user_dir.reporting.runs import Record, Run

_MOST_POINTS = 300  # of a line

Read = Callable[[Record], float | None]


@dataclass(frozen=True)
class _Line:
    run: str
    part: str  # of the runs' lines that the dash tells
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class _Curve:
    key: str
    title: str
    unit: str
    parts: tuple[tuple[str, str, Read], ...]  # (training or validation, name, what is read)
    note: str = ""
    from_zero: bool = False


def _value(name: str, factor: float = 1.0) -> Read:
    def read(record: Record) -> float | None:
        value = record.get(name)
        return None if value is None else value * factor

    return read


def _of_layers(name: str, factor: float = 1.0) -> Read:
    """The mean over the layers that have it."""

    def read(record: Record) -> float | None:
        layers = record.get("layers", {}).values()
        values = [layer[name] for layer in layers if layer.get(name) is not None]
        return factor * sum(values) / len(values) if values else None

    return read


def _busiest(record: Record) -> float | None:
    """The load of the busiest expert relative to an even share, the mean over layers."""
    loads = [layer["load"] for layer in record.get("layers", {}).values() if any(layer["load"])]
    return sum(max(one) * len(one) / sum(one) for one in loads) / len(loads) if loads else None


_CURVES = (
    _Curve(
        "nll",
        "Negative log-likelihood",
        "bits a token",
        (
            ("train", "training", _value("nll_loss")),
            ("valid", "validation", _value("nll_loss")),
        ),
        note="How surprised the model is by the reference; lower is better.",
    ),
    _Curve(
        "loss",
        "Loss",
        "bits a token",
        (("train", "training", _value("loss")), ("valid", "validation", _value("loss"))),
        note="What training minimises: with label smoothing and the balance loss.",
    ),
    _Curve("bleu", "BLEU in validation", "BLEU", (("valid", "validation", _value("bleu")),)),
    _Curve(
        "speed",
        "Speed",
        "target tokens a second",
        (("train", "training", _value("tokens_per_second")),),
        from_zero=True,
    ),
    _Curve("lr", "Learning rate", "learning rate", (("train", "training", _value("lr")),)),
    _Curve(
        "balance",
        "Balance loss",
        "mean over layers",
        (("train", "training", _of_layers("balance_loss")),),
        note="1 is perfect balance.",
    ),
    _Curve(
        "busiest",
        "Busiest expert",
        "times an even share",
        (("train", "training", _busiest),),
        note="Mean over layers; 1 would be the same load for all.",
    ),
    _Curve(
        "overflow",
        "Overflow",
        "% of choices dropped",
        (
            ("train", "first choices", _of_layers("overflow1", 100)),
            ("train", "second choices", _of_layers("overflow2", 100)),
        ),
        from_zero=True,
        note="Choices for which the expert had no slot left.",
    ),
    _Curve(
        "entropy",
        "Entropy of the gate",
        "nats a token",
        (("train", "training", _of_layers("entropy")),),
        note="0: always sure of one expert; ln E: undecided among E.",
    ),
)


def curves(runs: Sequence[Run]) -> list[Figure]:
    """Every curve that any of the runs has points for."""
    figures = []
    for curve in _CURVES:
        lines = [
            _Line(run.name, name, points)
            for run in runs
            for kind, name, read in curve.parts
            if (points := _points(run.train if kind == "train" else run.valid, read))
        ]
        if lines:
            figures.append(_figure(curve, lines))
    return figures


def cluster_curves(run: Run) -> list[Figure]:
    """What the clusters of a run tell about their tokens."""
    lines = [
        _Line(of, layer, points)
        for layer in run.layers
        for of in ("token", "language", "frequency")
        if (points := _points(run.train, _bits(layer, of)))
    ]
    if not lines:
        return []
    curve = _Curve(
        "clusters",
        "What clusters tell",
        "bits",
        (),
        from_zero=True,
        note="How much the cluster of a token says about its id, its sentence's first token (with "
        "language tokens, its language) and its frequency; 0 for clusters made at random.",
    )
    return [_figure(curve, lines)]


def _bits(layer: str, of: str) -> Read:
    return lambda record: record.get("layers", {}).get(layer, {}).get("cluster_bits", {}).get(of)


def _points(records: Iterable[Record], read: Read) -> list[tuple[int, float]]:
    found = [(r["updates"], value) for r in records if (value := read(r)) is not None]
    stride = -(-len(found) // _MOST_POINTS) or 1
    return found[::-1][::stride][::-1]  # the last one stays


def _figure(curve: _Curve, lines: Sequence[_Line]) -> Figure:
    rows = [
        {"run": line.run, "part": line.part, "updates": updates, "value": float(f"{value:.5g}")}
        for line in lines
        for updates, value in line.points
    ]
    last = max(updates for line in lines for updates, _ in line.points)
    encoding: Spec = {
        "x": {"field": "updates", "type": "quantitative", "axis": updates_axis(last, ticks=6)},
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": curve.unit,
            "scale": {"zero": curve.from_zero},
            "axis": {"tickCount": 6},
        },
        "tooltip": [
            {"field": "run", "title": " "},
            {"field": "part", "title": "of"},
            {"field": "updates"},
            {"field": "value", "title": curve.unit},
        ],
    }
    runs = list(dict.fromkeys(line.run for line in lines))
    parts = list(dict.fromkeys(line.part for line in lines))
    line = {"title": None, "symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2}
    encoding["color"] = {
        "field": "run",
        "scale": {"domain": runs},
        "legend": {**line, "columns": 1} if len(runs) > 1 else None,
    }
    encoding["strokeDash"] = {
        "field": "part",
        "scale": {"domain": parts},
        "legend": {**line, "symbolStrokeColor": INK} if len(parts) > 1 else None,
    }
    dash = {"strokeDash": encoding.pop("strokeDash")}
    layers = [{"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": dash}]
    if all(len(line.points) < 25 for line in lines):  # and where there is one alone
        layers.append({"mark": {"type": "point", "filled": True, "size": 18}})
    return Figure(
        key=curve.key,
        title=curve.title,
        alternative=f"{curve.title}, {curve.unit}, over updates. "
        + " ".join(_in_words(line) for line in lines),
        spec={
            "width": WIDTH,
            "height": 190,
            "data": {"values": rows},
            "encoding": encoding,
            "layer": layers,
        },
        note=curve.note,
    )


def _in_words(line: _Line) -> str:
    (first, start), (last, end) = line.points[0], line.points[-1]
    if len(line.points) == 1:
        return f"{line.run}, {line.part}: {end:.4g} at update {last}."
    return f"{line.run}, {line.part}: {start:.4g} at update {first}, {end:.4g} at update {last}."
