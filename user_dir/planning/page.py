"""The page of a plan, made like that of a report."""

from datetime import UTC, datetime

from user_dir.planning.figures import bandwidth_curves, byte_bars, grids, memory_bars, time_bars
from user_dir.planning.plan import Plan
from user_dir.planning.tables import (
    advice,
    facts,
    flags_of,
    headline,
    layer_table,
    memory_table,
    method_table,
    time_table,
)
from user_dir.reporting.html import Section, fill_page


def sections_of(plan: Plan) -> list[Section]:
    """All figures."""
    exchange = [time_bars(plan), byte_bars(plan)]
    if plan.asked.setting.layout.num_nodes > 1:
        exchange.append(bandwidth_curves(plan))
    return [
        Section("exchange", "Ways of exchange", exchange, ""),
        Section("ratios", "Ratios", grids(plan), "No ratios fit this model and layout."),
        Section("memory", "Memory", [memory_bars(plan)], ""),
    ]


def render(plan: Plan) -> str:
    """The page as HTML."""
    sections = sections_of(plan)
    known = {
        "title": f"Plan for {plan.machine.name}",
        "headline": headline(plan),
        "facts": facts(plan),
        "advice": advice(plan),
        "flags": flags_of(plan),
        "sections": sections,
        "tables": {
            "exchange": [method_table(plan), time_table(plan), layer_table(plan)],
            "ratios": [],
            "memory": [memory_table(plan)],
        },
        "everything": method_table(plan, everything=True),
        "refused": plan.refused,
        "sources": plan.machine.sources,
        "assumed": plan.machine.assumed,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return fill_page("plan.html.j2", known, sections, package="user_dir.planning")
