"""Reads pages of HTML, and checks what everybody needs of them."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

VOID = {"meta", "link", "br", "input", "img"}


class Page(HTMLParser):
    """The elements of a page; fails where they are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(data.strip())

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_accessible(page: Page) -> None:
    """What a screen reader and a keyboard need: language, title, headings, names, focus order."""
    assert page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in str(page.all("meta"))
    assert len(page.all("title")) == len(page.all("main")) == 1
    assert all("aria-label" in nav for nav in page.all("nav"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels)), levels
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    places = [a["href"][1:] for a in page.all("a")]
    assert set(places) <= set(ids)
    assert {id for id in ids if (("section", {"id": id}) in page.elements)} <= set(places)
    focusable = ("a", "summary", "button", "input")
    order = [(tag, a) for tag, a in page.elements if tag in focusable or "tabindex" in a]
    assert order[0][1]["class"] == "skip"  # the way past everything else comes first
    assert all(a.get("tabindex", "0") == "0" for _, a in order)
    for tag, attributes in page.elements:
        if attributes.get("role") in ("img", "region"):
            assert len(attributes["aria-label"]) > 5
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0"  # it scrolls
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        assert tag != "img" or attributes.get("alt")


needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
# Says, when all drawings are there, how wide the page is and which of them scripts drew.
_PROBE = """<script type="module">
await new Promise((done) => setTimeout(done, 3000));
const wide = document.documentElement.scrollWidth, places = document.querySelectorAll(".drawing");
const drawn = [...places].filter((place) => place.querySelector("svg").clientWidth > 50).length;
document.documentElement.dataset.seen = [wide, innerWidth, places.length, drawn].join(" ");
</script>"""


def look_at(html: str, folder: Path, *, width: int, dark: bool = False) -> str:
    """The page as a browser has it when its scripts have run; it must not complain.

    Whatever its width, nothing but tables may be wider, and every drawing must be there.
    """
    path = folder / "page.html"
    before, end, after = html.rpartition("</body>")  # scripts may name it too
    path.write_text(f"{before}{_PROBE}{end}{after}")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom")
    options += ("--enable-logging=stderr", "--virtual-time-budget=20000")
    if dark:
        options += ("--blink-settings=preferredColorScheme=0",)
    options += (f"--window-size={width},20000", f"--user-data-dir={folder}")
    done = subprocess.run(
        ["chromium", *options, f"file://{path}"], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = re.search(r'data-seen="(\d+) (\d+) (\d+) (\d+)"', done.stdout)
    assert seen, done.stdout[-2000:]
    wide, window, places, drawn = map(int, seen.groups())
    assert window == width and wide <= window and drawn == places > 0, seen.group(0)
    return done.stdout
