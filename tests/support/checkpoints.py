"""Checkpoints with something wrong in them, made from the small one among the fixtures."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.commands import ROOT
from user_dir import register  # noqa: F401 - lets torch read the options
from user_dir.cli import translate

FIXTURE = ROOT / "tests" / "fixtures" / "seq_and_clusters"
# fairseq reads its data's folder with the options of translation.
DATA = [FIXTURE / "bin", "--task", "scomoe_translation", "-s", "en", "-t", "de"]


def sound_state() -> dict[str, Any]:
    """What the fixture's checkpoint holds."""
    return torch.load(FIXTURE / "checkpoint.pt", weights_only=True)


def altered(path: Path, change: Callable[[dict[str, Any]], Any], **how: Any) -> Path:
    """Write the fixture's checkpoint with a change to what it holds."""
    state = sound_state()
    change(state)
    torch.save(state, path, **how)
    return path


def with_options(path: Path, **options: Any) -> Path:
    """Write the fixture's checkpoint with other options, in every group where one has a place."""
    return altered(path, lambda state: set_options(state, **options))


def set_options(state: dict[str, Any], **options: Any) -> None:
    """Set options of the model, and wherever else they stand."""
    for group in state["cfg"].values():
        values = vars(group) if isinstance(group, Namespace) else group
        for name, value in options.items():
            if isinstance(values, dict) and (name in values or isinstance(group, Namespace)):
                values[name] = value


def translate_with(path: Path, *options: str | Path) -> int:
    """Translate the fixture's lines; returns the exit status of scomoe-translate."""
    arguments = ["--path", path, "--data", FIXTURE / "bin", "--input", FIXTURE / "source.en"]
    arguments += ["--pre-tokenized", "--cpu", *options]
    return translate.main([str(argument) for argument in arguments])
