"""The lines of the console, from what fairseq logs in its format `json`."""

import math
from collections.abc import Mapping
from typing import Any

from user_dir.text.large.resumable import format_size

Values = Mapping[str, Any]  # names to numbers, which fairseq writes as text
_INDENT = 12


def update_line(values: Values, seconds_left: float) -> str:
    """What an interval of updates was like.

    Args:
        values: of fairseq's record `train_inner`.
        seconds_left: not finite where nobody knows.
    """
    parts = [f"update {values['num_updates']:>6}"]
    if "update" in values:  # epochs, of which a part is done
        parts.append(f"epoch {float(values['update']):.2f}")
    parts += _losses(values)
    if "wps" in values:
        parts.append(f"{_number(values, 'wps'):,.0f} tokens/s")
    if "moe_balance_loss" in values:
        parts.append(f"balance {_number(values, 'moe_balance_loss'):.3f}")
    sent = _number(values, "moe_bytes_between")
    if sent > 0:
        parts.append(f"{format_size(sent)} between nodes")
    if math.isfinite(seconds_left):
        parts.append(f"{in_time(seconds_left)} left")
    return "  ".join(parts)


def validation_line(subset: str, values: Values, seconds: float) -> str:
    """What a validation found.

    Args:
        values: of fairseq's record of the subset, whose names begin with the subset's.
        seconds: how long it took.
    """
    own = {key.removeprefix(f"{subset}_"): value for key, value in values.items()}
    parts = [f"validation  {subset} after update {own['num_updates']}", *_losses(own)]
    if "bleu" in own:
        parts.append(f"bleu {_number(own, 'bleu'):.2f}")
    for name in own:
        if name.startswith("best_"):
            parts.append(f"best {name.removeprefix('best_')} {_number(own, name):.3f}")
    return "  ".join([*parts, in_time(seconds)])


def checkpoint_line(path: str, updates: str, seconds: str) -> str:
    """What was written, after which update."""
    return f"checkpoint  {path} after update {updates}  {float(seconds):.1f} s"


def header_line(name: str, value: str) -> str:
    """A line of the header."""
    return f"{name:<{_INDENT}}{value}"


def in_time(seconds: float) -> str:
    """A time, as exactly as one wants to know it."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{max(0.0, seconds):.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _losses(values: Values) -> list[str]:
    names = {"loss": "loss", "nll_loss": "nll"}
    return [f"{short} {_number(values, n):.3f}" for n, short in names.items() if n in values]


def _number(values: Values, name: str) -> float:
    return float(values.get(name, 0))
