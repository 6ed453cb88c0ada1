"""Draws what variants learn against what they send between nodes, from results/learning.json.

python -m benchmarks.learning_picture --corpus multi30k-short --out docs/pictures/learning.svg
"""

import argparse
from pathlib import Path

from benchmarks.learning_results import RESULTS, Summary, read_results, summarise
from benchmarks.learning_variants import CLUSTERS, CONTROLS, EXPERIMENTS, PEERS, VARIANTS
from benchmarks.scatter import Point, scatter
from user_dir.reporting.figures import Figure

WIDTH, HEIGHT = 620, 420
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
    "cluster by token, changing": "clusters of random tokens, others in every update",
    "cluster by similar token": "clusters of similar tokens",
    "cluster by kmeans": "clusters by k-means",
    "gshard, global balance": "GShard, global balance",
    "seq, reordered": "Seq, layers reordered",
    "seq/2+cluster": "Seq of half the shares + clusters by scores",
    "seq by node": "Seq by node",
    "seq by node+cluster": "Seq by node + clusters by scores",
    "seq by node+cluster by token": "Seq by node + clusters of random tokens",
    "seq by node+cluster by similar token": "Seq by node + clusters of similar tokens",
    "seq+cluster by threshold": "Seq, thresholds, + clusters by scores",
    "seq+cluster by similar token, threshold": "Seq, thresholds, + clusters of similar tokens",
    "cluster by similar token, global balance": "clusters of similar tokens, global balance",
    "seq+cluster by similar token": "Seq + clusters of similar tokens",
    "seq+cluster by similar token, global balance": (
        "Seq + clusters of similar tokens, global balance"
    ),
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


def draw(corpus: str, summaries: list[Summary]) -> Figure:
    """Points with their intervals; lower is better, and so is further left."""
    points = [
        Point(
            label=NAMES.get(s.variant, s.variant),
            family=family_of(s.variant),
            x=s.megabytes,
            y=s.nll_end.mean,
            low=s.nll_end.mean - (s.nll_end.half_width or 0),
            high=s.nll_end.mean + (s.nll_end.half_width or 0),
        )
        for s in summaries
    ]
    return Figure(
        key=f"learning-{corpus}",
        title=f"Quality against bytes: {corpus}",
        alternative="Validation nll against megabytes between nodes: "
        + "; ".join(f"{s.variant} {s.nll_end.text()} at {s.megabytes:.1f} MB" for s in summaries),
        spec=scatter(
            points,
            families=[name for name, _ in FAMILIES],
            x_title="megabytes between nodes, an update",
            y_title="validation nll, bits",
            width=WIDTH,
            height=HEIGHT,
        ),
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
