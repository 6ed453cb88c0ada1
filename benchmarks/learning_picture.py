"""Draws what variants learn against what they send between nodes, from results/learning.json.

python -m benchmarks.learning_picture --corpus multi30k-short --out docs/pictures/learning.svg
"""

import argparse
from pathlib import Path

from benchmarks.learning_results import RESULTS, Summary, read_results, summarise
from benchmarks.learning_variants import CLUSTERS, CONTROLS, EXPERIMENTS, PEERS, VARIANTS
from user_dir.reporting.figures import Figure

WIDTH, HEIGHT = 620, 420
LINE = 13  # pixels between labels
# As the documents call them.
NAMES = {
    "gshard": "GShard",
    "gshard, reordered": "GShard, layers reordered",
    "gshard+cluster": "clusters by scores",
    "switch": "Switch",
    "seq": "Seq",
    "feat": "Feat",
    "seq+cluster": "Seq + clusters by scores (the paper's)",
    "feat+cluster": "Feat + clusters by scores (the paper's)",
    "cluster by token": "clusters of random tokens",
    "cluster by similar token": "clusters of similar tokens",
    "cluster by kmeans": "clusters by k-means",
    "seq+cluster by similar token": "Seq + clusters of similar tokens",
    "seq+cluster by token": "Seq + clusters of random tokens",
    "cluster by language": "clusters by language",
    "seq+cluster by language": "Seq + clusters by language",
    "seq+cluster by kmeans": "Seq + clusters by k-means",
    "dense, same parameters": "dense, same parameters",
    "seq by threshold": "Seq, thresholds",
    "feat+cluster by similar token": "Feat + clusters of similar tokens",
}
FAMILIES = (
    ("the paper's", VARIANTS),
    ("ways to cluster", CLUSTERS),
    ("controls", CONTROLS),
    ("other methods", PEERS),
)


def family_of(variant: str) -> str:
    """The group of variants that a variant is listed in."""
    return next(name for name, variants in FAMILIES if variant in variants)


def label_heights(points: list[tuple[float, float]], *, apart: float, near: float) -> list[float]:
    """A height for each point's label, at its point or as far above as others leave room.

    Args:
        points: places (x, y) on the paper, y upwards.
        apart: least distance of two labels that are near each other.
        near: how far labels reach to the right.
    """
    heights = [y for _, y in points]
    placed: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i][1]):
        for other in placed:
            too_near = abs(points[index][0] - points[other][0]) < near
            if too_near and heights[index] < heights[other] + apart:
                heights[index] = heights[other] + apart
        placed.append(index)
    return heights


def draw(corpus: str, summaries: list[Summary]) -> Figure:
    """Points with their intervals; lower is better, and so is further left."""
    lows = [s.nll_end.mean - (s.nll_end.half_width or 0) for s in summaries]
    highs = [s.nll_end.mean + (s.nll_end.half_width or 0) for s in summaries]
    most = max(s.megabytes for s in summaries) * 1.35 + 0.1  # room for labels on the right
    bits_a_pixel = (max(highs) - min(lows)) / HEIGHT
    heights = label_heights(
        [(s.megabytes, s.nll_end.mean) for s in summaries],
        apart=LINE * bits_a_pixel,
        near=most / 3,
    )
    values = [
        {
            "variant": NAMES.get(s.variant, s.variant),
            "family": family_of(s.variant),
            "megabytes": s.megabytes,
            "nll": s.nll_end.mean,
            "low": low,
            "high": high,
            "label": height,
        }
        for s, low, high, height in zip(summaries, lows, highs, heights, strict=True)
    ]
    x = {
        "field": "megabytes",
        "type": "quantitative",
        "scale": {"domain": [0, most]},
        "axis": {"tickCount": 8},
        "title": "megabytes between nodes, an update",
    }
    scale = {"zero": False}
    y = {"field": "nll", "type": "quantitative", "scale": scale, "title": "validation nll, bits"}
    colour = {"field": "family", "type": "nominal", "title": None}
    colour["sort"] = [name for name, _ in FAMILIES]
    spec = {
        "width": WIDTH,
        "height": HEIGHT,
        "data": {"values": values},
        "encoding": {"x": x, "color": colour},
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.45},
                "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
            },
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {"y": y}},
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11},
                "encoding": {"text": {"field": "variant"}, "y": y | {"field": "label"}},
            },
        ],
    }
    return Figure(
        key=f"learning-{corpus}",
        title=f"Quality against bytes: {corpus}",
        alternative="Validation nll against megabytes between nodes: "
        + "; ".join(f"{s.variant} {s.nll_end.text()} at {s.megabytes:.1f} MB" for s in summaries),
        spec=spec,
    )


def main() -> None:
    """Draw one corpus's results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=tuple(EXPERIMENTS), required=True)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"the file ({RESULTS.name})")
    parser.add_argument("--only", nargs="+", help="these variants (all that there are)")
    parser.add_argument("--out", type=Path, required=True, help="an .svg, .png or .pdf file")
    args = parser.parse_args()
    records = read_results(args.corpus, args.results)
    summaries = [s for s in summarise(records) if not args.only or s.variant in args.only]
    if not summaries:
        parser.error(f"--corpus {args.corpus}: nothing to draw in {args.results}")
    args.out.write_bytes(draw(args.corpus, summaries).drawn(args.out.suffix[1:]))


if __name__ == "__main__":
    main()
