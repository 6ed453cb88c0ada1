"""The page of a report: one file that needs nothing else, neither a network nor scripts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from user_dir.reporting.curves import cluster_curves, curves
from user_dir.reporting.figures import Figure, runtime
from user_dir.reporting.maps import language_maps, load_maps, reach_bars
from user_dir.reporting.runs import Run
from user_dir.reporting.tables import differing_options, facts, headline, option_rows
from user_dir.reporting.translations import examples, score_figure, score_rows

# With the runtime a page answers the pointer; without it, it only shows.
_MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class Section:
    """Figures under a heading, which `key` links to."""

    key: str
    title: str
    figures: list[Figure]
    why_empty: str  # said where there are none


def all_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Every figure of the page by a name for its file."""
    scores = Section("scores", "Scores", score_figure(score_rows(runs)), "")
    return _named([*all_sections(runs), scores])


def all_sections(runs: Sequence[Run]) -> list[Section]:
    """All figures: of runs together, then of each run by itself."""
    found = [Section("training", "Training", curves(runs), "Nothing is recorded yet.")]
    for number, run in enumerate(runs):
        of = f", {run.name}" if len(runs) > 1 else ""
        nothing = "There is nothing recorded of experts."
        parts = (
            ("load", "Load of the experts over time", load_maps(run), nothing),
            ("reach", "How far tokens and bytes went", reach_bars(run), nothing),
            (
                "languages",
                "Languages and experts",
                language_maps(run),
                "No layer knows several directions: they are counted with "
                "--task scomoe_multilingual_translation.",
            ),
            ("clusters", "Clusters", cluster_curves(run), ""),
        )
        found += [
            Section(f"{key}-{number}", title + of, figures, why)
            for key, title, figures, why in parts
            if figures or why
        ]
    return found


def render(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    rows = score_rows(runs)
    sections = all_sections(runs)
    scores = Section("scores", "Scores", score_figure(rows), "There is no evaluation.")
    known = {
        "runs": runs,
        "facts": {run.name: facts(run) for run in runs},
        "headlines": {run.name: headline(run) for run in runs},
        "options": {run.name: option_rows(run) for run in runs},
        "differing": differing_options(runs) if len(runs) > 1 else [],
        "sections": sections,
        "scores": scores,
        "score_rows": rows,
        "examples": {run.name: examples(run.translated) for run in runs},
        "svgs": _drawn([*sections, scores]),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    quiet = _fill({**known, "specs": None, "runtime": None})
    specs = _specs([*sections, scores])
    script = runtime()
    if len(quiet.encode()) + len(specs.encode()) + len(script.encode()) > _MOST_BYTES:
        return quiet
    return _fill({**known, "specs": specs, "runtime": script})


def _fill(known: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("user_dir.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(known)


def _named(sections: Sequence[Section]) -> dict[str, Figure]:
    return {
        f"{section.key}-{figure.key}": figure for section in sections for figure in section.figures
    }


def _drawn(sections: Sequence[Section]) -> dict[str, str]:
    # Ids of clip paths start anew in every drawing; in one page they must differ.
    return {
        key: figure.svg().replace('"clip', f'"{key}-clip').replace("url(#clip", f"url(#{key}-clip")
        for key, figure in _named(sections).items()
    }


def _specs(sections: Sequence[Section]) -> str:
    specs = {key: figure.whole_spec for key, figure in _named(sections).items()}
    # No text of a figure may end the script that holds it.
    return json.dumps(specs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
