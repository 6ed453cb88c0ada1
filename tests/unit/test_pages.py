"""README and the documents: options, pages and places that they name are there."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tools import options_page
from user_dir.training.elsewhere import ELSEWHERE
from user_dir.training.fairseq_source import names_known

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
# Of programs that are not ours, and one that is a mistake.
OTHERS = """--nproc-per-node --ntasks-per-node --max-restarts --account --time --inplace --no-binary
--no-build-isolation --no-deps --build-arg --nv --kills --moe-expert-cout"""
THERE = "from-the-paper.md"  # the first column of its tables is of others


@cache
def known_flags() -> frozenset[str]:
    known = names_known()
    assert known is not None
    folders = [ROOT / f"{name}_scripts" for name in ("preprocess", "train", "eval")]
    scripts = [path for folder in folders for path in folder.rglob("*.sh")]
    files = [*scripts, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").iterdir()]
    ours = {flag for path in files if path.is_file() for flag in FLAG.findall(path.read_text())}
    parsed = FLAG.findall(options_page.page())
    return (known.flags - set(ELSEWHERE)) | ours | set(parsed) | set(OTHERS.split())


def flags_of(text: str) -> set[str]:
    """Those in code within a line; blocks of commands are run (tests/scripts/test_pages_run.py)."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    codes = [code for code in re.findall(r"`([^`]+)`", text) if not code.startswith("chromium ")]
    return {flag for code in codes for flag in FLAG.findall(code)}


def columns(page: str) -> list[tuple[str, str]]:
    """(First column, the others) of the tables of a page."""
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    return [tuple(line.split(" | ", 1)) for line in lines if line.startswith("| ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_options_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    if page.name == THERE:
        text = "\n".join(ours for _, ours in columns(THERE))
    unknown = flags_of(text) - known_flags()
    assert not unknown


def test_the_page_of_other_releases_has_every_option_that_a_mistake_explains():
    theirs = set().union(*(flags_of(there) for there, _ in columns(THERE)))
    assert set(ELSEWHERE) <= theirs
    (fairseq,) = find_spec("fairseq").submodule_search_locations
    source = "".join(path.read_text("utf-8", "replace") for path in Path(fairseq).rglob("*.py"))
    for flag in ELSEWHERE:  # is none of the fairseq that is installed
        field = flag.removeprefix("--").replace("-", "_")
        assert f'"{flag}"' not in source and f"'{flag}'" not in source
        assert not re.search(rf"^    {field}: ", source, re.MULTILINE)
    for sentence in ELSEWHERE.values():
        assert set(FLAG.findall(sentence)) <= known_flags()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, place = target.partition("#")
        if name.startswith("http"):
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if place and path.suffix == ".md":
            assert place in places_of(path), target


def places_of(path: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
