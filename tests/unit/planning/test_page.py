"""The page of a plan: every figure drawn, whole in one file."""

import pytest

from tests.support.pages import Page, check_accessible, look_at, needs_browser
from tests.unit.planning.settings import arguments
from user_dir.planning.machine import read_machine
from user_dir.planning.page import render, sections_of
from user_dir.planning.plan import make_plan
from user_dir.planning.tables import advice, method_table, shown


@pytest.fixture(scope="module")
def plan():
    args = arguments(arch="scomoe_tiny", moe_nodes=2, moe_ranks_per_node=4)
    machine = read_machine("dgx-a100")
    return make_plan(args, machine, ratios=[0.0, 0.25, 0.3], least_share=0.5, num_tokens=1e9)


def test_the_page_shows_every_figure_and_every_way(plan):
    html = render(plan)
    assert len(html.encode()) < 2_000_000
    page = Page(html)
    drawings = [a for a in page.all("div") if a.get("class") == "drawing"]
    assert len(drawings) == len(page.all("svg")) == 6
    assert all(one["role"] == "img" and len(one["aria-label"]) > 40 for one in drawings)
    links = [a.get(name) for _, a in page.elements for name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for one in plan.outcomes:
        assert one.method.name in page.text
    assert plan.refused and all(why in page.text for why in plan.refused.values())
    assert all(line in page.text for line in plan.machine.sources + plan.machine.assumed)
    assert advice(plan) in page.text


def test_one_node_has_no_link_to_draw(plan):
    args = arguments(arch="scomoe_tiny", moe_nodes=1, moe_ranks_per_node=4)
    alone = make_plan(args, read_machine("dgx-a100"), ratios=[0.25])
    keys = [figure.key for section in sections_of(alone) for figure in section.figures]
    assert "bandwidth" not in keys and {"time", "bytes", "memory"} <= set(keys)


def test_tables_show_what_matters_and_all_if_asked(plan):
    names = [one.method.name for one in shown(plan)]
    assert plan.best.method.name in names and plan.asked.method.name in names
    assert len(names) < len(plan.outcomes)
    rows = method_table(plan, everything=True).rows
    assert len(rows) == len(plan.outcomes)
    (marked,) = [row[0] for row in rows if row[0].endswith(" *")]
    assert marked == f"{plan.best.method.name} *"


def test_everybody_can_read_the_page(plan):
    check_accessible(Page(render(plan)))


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (500, False)])
def test_a_browser_shows_every_figure_without_an_error(plan, tmp_path, width, dark):
    html = render(plan)
    assert look_at(html, tmp_path, width=width, dark=dark).count("vega-embed") >= 6
