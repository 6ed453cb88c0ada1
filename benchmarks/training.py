"""Tokens a second of training in one process, mixtures against dense models of equal arithmetic.

    python -m benchmarks.training                     (about four minutes on one core)
    python -m benchmarks.training --device cuda --precision bf16

A step is fairseq's own, Trainer.train_step: forward and backward pass, clipping, Adam, metrics.
All models get the same batches of made sentences. The dense ones are fairseq's `transformer`; the
width of their feed-forward layers is such that over all layers of a stack these multiply as much
as the mixture's: about 1.5 times the mixture's width for top-2 in every second layer, 1.0 times for
top-1. It is counted in a training step of the mixture, with all slots of its experts, empty ones
too. Every model is trained with the options that it is usually trained with: in bf16 the dense
ones keep their gradients in one flat tensor, which mixtures cannot.

`scomoe_base` has its own widths on a GPU and with --full; on a CPU it has its depth, but a width of
256. Tokens are those of the target, as in fairseq's log.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.learning import VARIANTS
from benchmarks.timing import Timing, measure, parse_arguments, synchronize, write_results
from benchmarks.trainers import (
    build_trainer,
    counting_feed_forward,
    make_batches,
    make_corpus,
    require_fairseq,
    run_backward,
    silence,
    train,
)
from user_dir.text.scoring.tables import format_markdown

HEADER = (
    "model",
    "layout",
    "parameters",
    "FFN arithmetic",
    "tokens/s",
    "of dense",
    "update",
)
SIZE_SECONDS = 80.0  # for the rounds of one size


@dataclass(frozen=True)
class Size:
    """A pair of stacks and what it is trained on."""

    arch: str
    layers: int
    dim: int
    hidden: int
    heads: int
    max_tokens: int
    vocab_size: int
    pre_norm: bool = False
    batches: int = 2  # of a measurement

    @property
    def name(self) -> str:
        return f"{self.arch}, {self.layers}+{self.layers} layers, {self.dim}/{self.hidden}"

    @property
    def options(self) -> list[str]:
        """Of fairseq-train, all but the widths of feed-forward layers."""
        sizes = {"layers": self.layers, "attention-heads": self.heads, "embed-dim": self.dim}
        options = ["--share-all-embeddings"]
        for stack in ("encoder", "decoder"):
            for name, size in sizes.items():
                options += [f"--{stack}-{name}", str(size)]
            options += [f"--{stack}-normalize-before"] * self.pre_norm
        return options


TINY = Size("scomoe_tiny", 4, 128, 256, 4, max_tokens=1024, vocab_size=1000, pre_norm=True)
NARROW = Size("scomoe_base", 6, 256, 1024, 4, max_tokens=1024, vocab_size=4000, batches=1)
BASE = Size("scomoe_base", 6, 512, 2048, 8, max_tokens=4096, vocab_size=32000)
GPU_TINY = Size("scomoe_tiny", 4, 128, 256, 4, max_tokens=4096, vocab_size=1000, pre_norm=True)
SMALL = Size("scomoe_tiny", 4, 32, 32, 2, max_tokens=256, vocab_size=40, batches=1)

# The mixtures: a variant, and the nodes and ranks that it is laid out for.
MIXTURES = [
    ("switch", (1, 1)),
    ("gshard", (1, 1)),
    ("gshard", (1, 4)),
    ("gshard", (2, 4)),
    ("seq", (2, 4)),
    ("feat", (2, 4)),
    ("seq+cluster", (2, 4)),
    ("feat+cluster", (2, 4)),
]
# The mixture that a dense model is as wide as, by the top k of those it is compared with.
MODELS_OF_TOP = {1: ("switch", (1, 1)), 2: ("gshard", (1, 1))}


@dataclass
class Candidate:
    """A model that trains, and what one pass over the batches multiplies."""

    trainer: Any
    multiply_adds: Counter  # of feed-forward layers, forward, by stack
    top_k: int

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.trainer.model.parameters())


def main() -> None:
    """Measure every size; print a table for each and write JSON."""
    args = parse_arguments(__doc__, _add_options)
    require_fairseq("benchmarks.training")
    silence()
    records = []
    for number, size in enumerate(_sizes(args)):
        of_size = run_size(size, args)
        print("\n" * (number > 0) + format_markdown((size.name, *HEADER[1:]), _rows(of_size)))
        records += of_size
    name = "training" if args.precision == "float32" else f"training.{args.precision}"
    print(f"\nwritten to {write_results(name, records, args)}")


def run_size(size: Size, args: argparse.Namespace) -> list[dict]:
    """A record for each model."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(
            Path(folder) / "corpus",
            sentences=2 * size.batches * size.max_tokens // 30,
            vocab_size=size.vocab_size,
        )
        candidates, batches = build_candidates(size, data, args)
        steps = {name: partial(train, one.trainer, batches) for name, one in candidates.items()}
        passes = {
            name: partial(run_backward, one.trainer, batches) for name, one in candidates.items()
        }
        measured = partial(measure, device=args.device)
        seconds = measured(steps, repeat=args.repeat, budget=SIZE_SECONDS)
        backward = measured(passes, repeat=min(2, args.repeat), budget=SIZE_SECONDS / 2)
    tokens = sum(batch["ntokens"] for batch in batches)
    return [
        {
            **_describe(name, candidates),
            "size": size.name,
            "precision": args.precision,
            "tokens": tokens,
            "seconds": seconds[name],
            "tokens_per_second": tokens / seconds[name].median,
            "of_dense": seconds[_dense(one.top_k)].median / seconds[name].median,
            # What is neither forward nor backward pass: gradients, clipping, Adam, metrics. Of the
            # fastest calls: the two were not taken in the same rounds.
            "update_share": max(0.0, 1 - backward[name].min / seconds[name].min),
        }
        for name, one in candidates.items()
    ]


def build_candidates(
    size: Size, data: Path, args: argparse.Namespace
) -> tuple[dict[str, Candidate], list[dict]]:
    """All models of a size by name, warm, and the batches for all of them."""
    batches: list[dict] = []

    def build(options: Sequence[str], top_k: int) -> Candidate:
        trainer = build_trainer(data, [*options, *_common_options(size, args)])
        if not batches:
            batches.extend(make_batches(trainer, size.batches))
        with counting_feed_forward(trainer.model) as multiply_adds:
            train(trainer, batches)
        synchronize(args.device)
        return Candidate(trainer, multiply_adds, top_k)

    mixtures = {
        _name(variant, layout): build(
            mixture_options(size, variant, layout, args.precision), 1 if variant == "switch" else 2
        )
        for variant, layout in MIXTURES
    }
    dense = {
        _dense(top_k): build(
            dense_options(size, mixtures[_name(*like)].multiply_adds, batches), top_k
        )
        for top_k, like in MODELS_OF_TOP.items()
    }
    return {**dense, **mixtures}, batches


def mixture_options(size: Size, variant: str, layout: tuple[int, int], precision: str) -> list[str]:
    """Of fairseq-train for a mixture of 8 experts in every second layer."""
    nodes, ranks_per_node = map(str, layout)
    options = ["--arch", size.arch, "--encoder-ffn-embed-dim", str(size.hidden)]
    options += ["--decoder-ffn-embed-dim", str(size.hidden), *VARIANTS[variant]]
    options += ["--moe-nodes", nodes, "--moe-ranks-per-node", ranks_per_node]
    options += ["--criterion", "moe_cross_entropy", "--optimizer", "moe_adam"]
    if precision == "bf16":
        options += ["--bf16", "--fp16-no-flatten-grads", "--moe-gating-use-fp32"]
    return options


def dense_options(size: Size, multiply_adds: Counter, batches: Sequence[dict]) -> list[str]:
    """Of fairseq-train for fairseq's transformer that multiplies as much in each stack."""
    options = ["--arch", "transformer", "--criterion", "label_smoothed_cross_entropy"]
    options += ["--optimizer", "adam"]
    for stack, key in ("encoder", "src_tokens"), ("decoder", "prev_output_tokens"):
        positions = sum(batch["net_input"][key].numel() for batch in batches)
        width = multiply_adds[stack] / (positions * size.layers * 2 * size.dim)
        # A width that no matrix unit likes would flatter the mixture.
        step = max(8, size.hidden // 32)
        options += [f"--{stack}-ffn-embed-dim", str(round(width / step) * step)]
    return options


def _common_options(size: Size, args: argparse.Namespace) -> list[str]:
    options = [*size.options, "--max-tokens", str(size.max_tokens), "--label-smoothing", "0.1"]
    options += ["--adam-betas", "(0.9, 0.98)", "--lr", "1e-4", "--clip-norm", "1"]
    options += ["--dropout", "0.1", "--num-workers", "0", "--seed", "1"]
    if args.device.type == "cpu":
        options += ["--cpu"]
    if args.precision == "bf16":
        options += ["--bf16"]
    return options


def _name(variant: str, layout: tuple[int, int]) -> str:
    return f"{variant} {layout[0]}x{layout[1]}"


def _dense(top_k: int) -> str:
    return f"dense, top-{top_k}"


def _describe(name: str, candidates: dict[str, Candidate]) -> dict:
    candidate = candidates[name]
    dense = candidates[_dense(candidate.top_k)]
    model, is_dense = name.rpartition(" ")[0].rstrip(","), candidate is dense
    own, of_dense = (sum(one.multiply_adds.values()) for one in (candidate, dense))
    widths = candidate.trainer.cfg.model
    return {
        "model": name if is_dense else model,
        "layout": None if is_dense else name.rpartition(" ")[2],
        "top_k": candidate.top_k,
        "ffn_widths": [widths.encoder_ffn_embed_dim, widths.decoder_ffn_embed_dim],
        "parameters": candidate.parameters,
        "ffn_multiply_adds": own,
        "ffn_of_dense": own / of_dense,
    }


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bf16"), help="(default: float32)"
    )


def _sizes(args: argparse.Namespace) -> list[Size]:
    if args.small:
        return [SMALL]
    if args.device.type == "cuda":
        return [GPU_TINY, BASE]
    return [TINY, BASE if args.full else NARROW]


def _rows(records: Sequence[dict]) -> list[tuple[str, ...]]:
    return [
        (
            _label(record),
            record["layout"] or "",
            f"{record['parameters'] / 1e6:.2f} M",
            f"{record['ffn_of_dense']:.2f}",
            _rate(record["tokens"], record["seconds"]),
            f"{record['of_dense']:.2f}",
            f"{record['update_share']:.0%}",
        )
        for record in records
    ]


def _label(record: dict) -> str:
    """A dense model tells its feed-forward widths, which are its own."""
    if record["layout"]:
        return record["model"]
    return f"{record['model']}: {'+'.join(map(str, sorted(set(record['ffn_widths']))))}"


def _rate(count: int, seconds: Timing) -> str:
    rates = [count / value for value in (seconds.median, seconds.max, seconds.min)]
    return "{:.0f} ({:.0f} to {:.0f})".format(*rates)


if __name__ == "__main__":
    main()
