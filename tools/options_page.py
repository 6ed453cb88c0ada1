"""Writes docs/options.md: every option of every command, from the parsers themselves.

python -m tools.options_page
"""

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from user_dir.training.option_help import example_of, option_parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
_CLI = PAGE.parents[1] / "user_dir" / "cli"
_HEAD = """\
# All options

Those of `scomoe-train` by subject, as `scomoe-train --help` shows them; then those of the other
commands. Defaults are those of a command line that names nothing else; the architectures of
[training](training.md#models) have some of their own. `--help-all` lists fairseq's options too,
which work unless they are [refused](training.md#precision-and-memory). What goes with what is in
[gates](gates.md#what-goes-with-what). Written by `python -m tools.options_page`.
"""
_DEFAULT = re.compile(r"^(.*?) ?\(default: ((?:[^()]|\([^()]*\))*)\)$", re.DOTALL)
# Options that all commands have.
_COMMON = {"--help", "--debug"}


def page() -> str:
    """The page's text."""
    parts = [_HEAD]
    for title, actions in _groups(option_parser()):
        rows = [_row(action, example_of(action.option_strings[-1])) for action in actions]
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n" + _table(rows, "example"))
    parts.append(
        "## The other commands\n\nEach has `--help` too, and `--debug`, which shows the "
        "stack trace of an error.\n"
    )
    for name in commands():
        parser = importlib.import_module(f"user_dir.cli.{name}").get_parser()
        actions = [action for _, group in _groups(parser) for action in group]
        parts.append(f"### {parser.prog}\n\n" + _table([_row(action) for action in actions]))
    return "\n".join(parts)


def commands() -> list[str]:
    """Modules of the installed commands but for `scomoe-train`, in the order of setup.py."""
    text = (PAGE.parents[1] / "setup.py").read_text(encoding="utf-8")
    names = re.findall(r'^    "([a-z0-9-]+)",$', text.partition(")")[0], re.MULTILINE)
    return [name.replace("-", "_") for name in names if name != "train"]


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if not _COMMON & set(one.option_strings)]
        if parser.prog == "scomoe-train":
            actions = list(group._group_actions)
        if actions:
            yield str(group.title), actions


def _row(action: argparse.Action, example: str | None = None) -> list[str]:
    text = " ".join((action.help or "").replace("%(default)s", str(action.default)).split())
    if "--workers" in action.option_strings:  # whose number is this machine's
        text = text.replace(f"(default: {action.default})", "(default: one for each core)")
    split = _DEFAULT.match(text)
    if split:
        text, default = split[1], split[2]
    elif action.default is False:
        default = "off"
    elif action.default in (None, argparse.SUPPRESS):
        default = ""
    else:
        default = str(action.default)
    names = action.option_strings or [str(action.metavar or action.dest)]
    shown = ", ".join(f"`{name}`" for name in names)
    cells = [shown, default, text] if example is None else [shown, default, f"`{example}`", text]
    return [("" if cell == "``" else cell).replace("%%", "%").replace("|", "\\|") for cell in cells]


def _table(rows: list[list[str]], *columns: str) -> str:
    head = ["option", "default", *columns, "meaning"]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
