"""What runs are, in tables: sizes, layout, versions, and the options in which they differ."""

from collections.abc import Sequence
from typing import Any

from user_dir.reporting.runs import Run

# Where a run's files lie and its processes met: no two runs have them in common.
_PLACES = {
    "data", "save_dir", "log_file", "tensorboard_logdir", "user_dir", "lang_dict", "lang_pairs",
    "restore_file", "device_id", "distributed_rank", "distributed_init_method", "distributed_port",
    "moe_layout_given",
}  # fmt: skip


def facts(run: Run) -> list[tuple[str, str]]:
    """What a run is, by name."""
    about = run.about
    options, layout = about.get("options", {}), about.get("layout", {})
    found: list[tuple[str, Any]] = [("state", run.state)]
    if about.get("parameters"):
        sizes = about["parameters"]
        found += [
            ("model", options.get("arch")),
            ("parameters", f"{sizes['total']:,}, of them {sizes['experts']:,} of experts"),
            ("active for a token", f"{sizes['active']:,}"),
        ]
    if layout:
        found += [
            ("layout", f"{layout['nodes']} nodes × {layout['ranks_per_node']} ranks"),
            ("experts", f"{layout['experts']}, {layout['experts_per_rank']} a rank"),
        ]
    if about:
        found += [
            ("MoE layers", ", ".join(f"{k} ({v})" for k, v in about.get("kinds", {}).items())),
            ("processes", f"{about.get('processes')} on {about.get('machine', {}).get('device')}"),
            ("corpus", options.get("data")),
            ("versions", ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())),
            ("starts", len(run.starts)),
        ]
    walls = [record["wall"] for record in (*run.train, *run.valid) if record.get("wall")]
    if walls:
        found.append(("training time", in_words(max(walls))))
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def in_words(seconds: float) -> str:
    """A time in hours, minutes or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def headline(run: Run) -> list[tuple[str, str]]:
    """The few numbers that one wants first."""
    found = []
    nlls = [r["nll_loss"] for r in run.valid if r.get("nll_loss") is not None]
    if nlls:
        found.append((f"{nlls[-1]:.2f}", "bits a token in validation"))
    speeds = sorted(r["tokens_per_second"] for r in run.train if r.get("tokens_per_second"))
    if speeds:
        found.append((f"{speeds[len(speeds) // 2]:,.0f}", "target tokens a second"))
    found.append((f"{run.updates:,}", "updates"))
    return found


def option_rows(run: Run) -> list[tuple[str, str]]:
    """All options of a run."""
    return [(_flag(name), _shown(value)) for name, value in run.about.get("options", {}).items()]


def differing_options(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Options that are not the same in all runs that say theirs: name, and a value a run."""
    options = [run.about.get("options", {}) for run in runs]
    names = sorted({name for one in options for name in one} - _PLACES)
    rows = [(_flag(name), [_shown(one.get(name, "—")) for one in options]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return "—" if value is None else str(value)
