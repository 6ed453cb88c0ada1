"""The page of a report: one file that needs nothing else, neither a network nor scripts."""

from collections.abc import Sequence
from datetime import UTC, datetime

from user_dir.reporting.curves import cluster_curves, curves
from user_dir.reporting.figures import Figure
from user_dir.reporting.html import Section, fill_page, named
from user_dir.reporting.maps import language_maps, load_maps, reach_bars
from user_dir.reporting.runs import Run
from user_dir.reporting.tables import differing_options, facts, headline, option_rows
from user_dir.reporting.translations import examples, score_figure, score_rows


def all_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Every figure of the page by a name for its file."""
    scores = Section("scores", "Scores", score_figure(score_rows(runs)), "")
    return named([*all_sections(runs), scores])


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
    why_none = "" if rows else "There is no evaluation."
    scores = Section("scores", "Scores", score_figure(rows), why_none)
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
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return fill_page("report.html.j2", known, [*sections, scores], package="user_dir.reporting")
