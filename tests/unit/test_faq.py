"""docs/faq.md: the messages that it explains are said."""

import re
from functools import cache

import pytest

from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| ")]
# What is no message of ours.
OF_OTHERS = {
    "moe_overflow1",
    "moe_overflow2",
    "fairseq-train",
    "invalid choice",
    "Weights only load failed",
    "@@",
    "▁",
}


@cache
def source() -> str:
    """All strings of the package, those that go on in the next line put together."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "user_dir").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def messages() -> list[str]:
    quoted = [one for row in ROWS for one in re.findall(r"`([^`]+)`", row)]
    return [one for one in quoted if not one.startswith("-") and one not in OF_OTHERS]


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_page_is_one_that_is_said(message):
    for part in re.split(r" ?… ?", message):
        assert part in source(), message


def test_there_are_messages_to_look_for():
    assert len(messages()) > 15
