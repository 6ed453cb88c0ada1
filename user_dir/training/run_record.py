"""What a run is: the first record of its statistics; docs/statistics.md."""

import logging
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from user_dir.fast_moe.clustering.layer import ClusteringLayer
from user_dir.reporting.statistics_file import STATISTICS, drop_later_records
from user_dir.training.directions import mixtures
from user_dir.training.statistics import RunStatistics

logger = logging.getLogger(__name__)

_PACKAGES = ("scomoe", "fairseq-fixed", "torch", "numpy", "sacrebleu", "sentencepiece")


def open_statistics(cfg, trainer) -> RunStatistics | None:
    """The statistics of a run that starts or goes on; None where this process writes none."""
    interval = getattr(trainer.get_criterion(), "statistics_interval", 0)
    if not interval or cfg.checkpoint.no_save or not trainer.is_data_parallel_master:
        return None
    path = Path(cfg.checkpoint.save_dir) / STATISTICS
    try:
        drop_later_records(path, trainer.get_num_updates())
    except OSError as error:
        logger.warning("%s cannot be read (%s); training without it", path, error.strerror)
        return None
    directions = getattr(trainer.task, "directions", ())
    statistics = RunStatistics(
        path,
        interval=interval,
        directions=directions,
        histogram=_histogram(cfg.common.tensorboard_logdir),
    )
    record = run_record(cfg, trainer.get_model(), trainer.device)
    statistics.write("run", trainer.get_num_updates(), {**record, "directions": list(directions)})
    return statistics


def _histogram(folder: str | None) -> Callable[[str, Any, int], None] | None:
    """Writes to TensorBoard, whose scalars are fairseq's."""
    if not folder:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # fairseq has said so
    return SummaryWriter(str(Path(folder) / "moe")).add_histogram


def run_record(cfg, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Versions, machine, options, layout, sizes and MoE layers of a run.

    Args:
        cfg: fairseq's configuration.
    """
    record: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"host": platform.node(), "device": _device_name(device)},
        "processes": cfg.distributed_training.distributed_world_size,
        "parameters": _count_parameters(model),
        "options": _options(cfg),
    }
    parts = getattr(model, "moe_parts", None)
    if parts is not None:
        topology = parts.topology
        record["layout"] = {
            "nodes": topology.layout.num_nodes,
            "ranks_per_node": topology.layout.ranks_per_node,
            "experts": topology.num_experts,
            "experts_per_rank": topology.experts_per_rank,
        }
    record["kinds"] = {layer.name: layer.kind.value for layer in mixtures(model)}
    return record


def _count_parameters(model: nn.Module) -> dict[str, int]:
    """Over all processes, on one rank, and those that work on one token: its active ones."""
    shared = sum(p.numel() for p in model.parameters() if not hasattr(p, "expert"))
    experts = active = of_rank = 0
    for layer in mixtures(model):
        topology = layer.topology
        held = sum(p.numel() for p in layer.experts.parameters())
        of_one = held // len(topology.held_experts(topology.process_index))
        experts += of_one * topology.num_experts
        of_rank += of_one * topology.experts_per_rank
        chosen = 1 if isinstance(layer, ClusteringLayer) else layer.capacity.top_k
        active += of_one * min(chosen, topology.num_experts)
    return {
        "total": shared + experts,
        "experts": experts,
        "rank": shared + of_rank,
        "active": shared + active,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _options(cfg) -> dict[str, Any]:
    """All options by name, where they have a value that JSON knows."""
    sections: dict[str, Any] = {
        str(name): section
        if isinstance(section, Namespace)
        else OmegaConf.to_container(section, resolve=True)
        for name, section in cfg.items()
        if isinstance(section, Namespace) or OmegaConf.is_config(section)
    }
    options: dict[str, Any] = {}
    for section in sections.values():
        values: Mapping[str, Any] = vars(section) if isinstance(section, Namespace) else section
        options |= {
            name: value
            for name, value in values.items()
            if not name.startswith("_") and _is_plain(value)
        }
    return dict(sorted(options.items()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))
