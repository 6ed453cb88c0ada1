"""What the console says of a run before it begins."""

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_dir.training.console.lines import header_line
from user_dir.training.console.train_log import NAME

_MOST_DIRECTIONS = 4  # that are named


def header(cfg, task, record: Mapping[str, Any], *, updates: int) -> list[str]:
    """Model, layout, sizes, corpus, device, and where the log is.

    Args:
        cfg: fairseq's configuration.
        record: of the run (`run_record`).
        updates: those of the checkpoint that the run goes on from; 0: it starts anew.
    """
    lines = [
        ("model", _model(cfg.model, record)),
        ("layout", _layout(record)),
        ("parameters", _parameters(record["parameters"])),
        ("corpus", _corpus(cfg.task, task)),
        ("device", record["machine"]["device"]),
        ("log", "none, as --no-save asks for"),
    ]
    if not cfg.checkpoint.no_save:
        lines[-1] = ("log", str(Path(cfg.checkpoint.save_dir) / NAME))
    if updates:
        lines.append(("start", f"after update {updates}"))
    return [header_line(name, value) for name, value in lines]


def _model(options: Any, record: Mapping[str, Any]) -> str:
    name = getattr(options, "arch", None) or getattr(options, "_name", "a model")
    kinds = Counter(record["kinds"].values())
    if not kinds:
        return f"{name}, no MoE layers"
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    layers = f"MoE layers: {listed}"
    return f"{name}, {layers}, {record['layout']['experts']} experts each"


def _layout(record: Mapping[str, Any]) -> str:
    processes = f"on {_count(record['processes'], 'process', 'processes')}"
    if "layout" not in record:
        return processes
    layout = record["layout"]
    nodes = _count(layout["nodes"], "node", "nodes")
    ranks = _count(layout["ranks_per_node"], "rank", "ranks")
    return f"{nodes} x {ranks}, {processes}"


def _parameters(sizes: Mapping[str, int]) -> str:
    return f"{sizes['total']:,}; {sizes['rank']:,} a rank; {sizes['active']:,} active for a token"


def _corpus(options: Any, task: Any) -> str:
    options = options if isinstance(options, Namespace) else Namespace(**options)
    parts = [str(getattr(options, "data", "?")), _directions(options)]
    if "train" in task.datasets:
        parts.append(f"{len(task.datasets['train']):,} sentences an epoch")
    return ", ".join(part for part in parts if part)


def _directions(options: Namespace) -> str:
    pairs = getattr(options, "lang_pairs", None)
    if pairs:
        pairs = pairs.split(",") if isinstance(pairs, str) else list(pairs)
        return ", ".join(pairs) if len(pairs) <= _MOST_DIRECTIONS else f"{len(pairs)} directions"
    sides = [getattr(options, f"{side}_lang", None) for side in ("source", "target")]
    return "-".join(map(str, sides)) if all(sides) else ""


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
