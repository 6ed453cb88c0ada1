"""The pictures of docs/concepts.md are those that their script draws."""

import re

import pytest

from tests.support.commands import ROOT
from tools.concept_pictures import PICTURES

PAGE = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_one_that_is_drawn_and_shown(name):
    kept = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert kept == PICTURES[name]().svg()
    assert re.search(rf"!\[.+\]\(pictures/{name}\.svg\)", PAGE)
