"""Peak memory of updates, planned and measured; a part of `benchmarks.planning`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.timing import peak_memory
from benchmarks.trainers import build_trainer, make_batches, make_corpus
from user_dir.cli.plan import get_parser
from user_dir.planning.memory import memory_of
from user_dir.planning.parameters import count_parameters
from user_dir.planning.setting import Setting

MEMORY_HEADER = ("model", "planned MiB", "measured MiB", "planned/measured")
TINY = ("--arch", "scomoe_tiny")
# Base's depth, narrower; half of the layers are mixtures.
DEEP = (
    *("--arch", "scomoe_base", "--encoder-embed-dim", "256", "--encoder-ffn-embed-dim", "1024"),
    *("--share-all-embeddings",),
)
SEQ = ("--scomoe-type", "seq")
# By name: options of training and of a plan alike.
MODELS = {
    "tiny, gshard": TINY,
    "tiny, gshard, bf16": (*TINY, "--bf16"),
    "tiny, gshard, recomputed": (*TINY, "--checkpoint-activations"),
    "tiny, gshard, capacity 2": (*TINY, "--capacity-factor", "2"),
    "tiny, gshard, dropless": (*TINY, "--capacity-factor", "0"),
    "tiny, seq": (*TINY, *SEQ),
    "tiny, seq+cluster": (*TINY, *SEQ, "--token-cluster", "--cluster-by", "scores"),
    "tiny, feat": (*TINY, "--scomoe-type", "feat"),
    "tiny, bottleneck 64": (*TINY, "--scomoe-type", "bottleneck", "--moe-exchange-dim", "64"),
    "deep, gshard": DEEP,
    "deep, seq": (*DEEP, *SEQ),
    "deep, feat, recomputed": (*DEEP, "--scomoe-type", "feat", "--checkpoint-activations"),
}


def measure_memory(args: argparse.Namespace) -> list[dict]:
    """A record for each model."""
    length, tokens = (15, 256) if args.small else (31, 2048)
    models = list(MODELS.items())[: 1 if args.small else None]
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(
            Path(folder) / "corpus", sentences=400, vocab_size=1000, length=f"{length}-{length}"
        )
        records = []
        for name, options in models:
            measured, size = _measure_update(data, options, tokens)
            planned = planned_bytes(options, **size)
            records.append(
                {"what": "memory", "model": name, "planned": planned, "measured": measured, **size}
            )
    return records


def _measure_update(data: Path, options: Sequence[str], tokens: int) -> tuple[int, dict[str, int]]:
    """Most bytes of tensors in an update, and the sizes of its batch."""
    given = [*options, "--criterion", "moe_cross_entropy", "--optimizer", "moe_adam"]
    given += ["--lr", "1e-4", "--dropout", "0.1", "--max-tokens", str(tokens), "--cpu"]
    given += ["--moe-statistics-interval", "0", "--user-dir", "user_dir"]
    if "--bf16" in options:
        given.append("--fp16-no-flatten-grads")
    trainer = build_trainer(data, given)
    (batch,) = make_batches(trainer, 1)
    trainer.train_step([batch])  # makes the optimizer's state
    trainer.zero_grad()
    held = _held_bytes(trainer)
    peak = peak_memory(lambda: trainer.train_step([batch]), torch.device("cpu"))
    sentences, length = batch["target"].shape
    return held + peak, {
        "tokens": sentences * length,
        "sentence_length": length,
        "vocabulary": len(trainer.task.target_dictionary),
    }


def _held_bytes(trainer) -> int:
    """Of weights, the optimizer's state and, in half precision, what it copies them to."""
    optimizer = trainer.optimizer.optimizer
    tensors = list(trainer.model.parameters())
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            tensors += [parameter, *([] if parameter.grad is None else [parameter.grad])]
            tensors += [t for t in optimizer.state[parameter].values() if torch.is_tensor(t)]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def planned_bytes(options: Sequence[str], **size: int) -> float:
    """The peak that a plan says, of one rank."""
    given = ["fp32" if "--bf16" not in options else "bf16"]
    words = [word for word in options if word != "--bf16"]
    args = get_parser().parse_args([*words, "--precision", *given])
    for name, value in {"moe_nodes": 1, "moe_ranks_per_node": 1, **size}.items():
        setattr(args, name, value)
    setting = Setting.of(args, device="cpu")
    return memory_of(setting, count_parameters(setting)).peak


def memory_rows(records: Sequence[dict]) -> list[list[str]]:
    """Planned and measured peaks."""
    return [
        [
            one["model"],
            f"{one['planned'] / 2**20:.1f}",
            f"{one['measured'] / 2**20:.1f}",
            f"{one['planned'] / one['measured']:.3f}",
        ]
        for one in records
    ]
