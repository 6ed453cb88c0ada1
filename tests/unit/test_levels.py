"""Data goes one way: a module imports nothing from above its level, and there are no circles."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "user_dir"
MODULES = sorted(PACKAGE.rglob("*.py"))
NEEDS_FAIRSEQ_FROM = 4


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level_of(path: Path) -> int:
    """The level that a module's docstring states; text is 0, commands are 6."""
    folder = path.relative_to(PACKAGE).parts[0]
    if folder == "text":
        return 0
    if folder != "fast_moe":
        return 6
    if path.name == "__init__.py":
        return 0
    stated = re.search(r"Level (\d)[.:]", ast.get_docstring(ast.parse(path.read_text())) or "")
    assert stated, f"{path} does not state its level in its docstring"
    return int(stated.group(1))


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


LEVELS = {name_of(path): level_of(path) for path in MODULES}
IMPORTS = {name_of(path): imports_of(path) & LEVELS.keys() - {name_of(path)} for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_nothing_from_above(path):
    for imported in IMPORTS[name_of(path)]:
        assert LEVELS[imported] <= level_of(path), f"{path} imports {imported}"


@pytest.mark.parametrize("path", [p for p in MODULES if level_of(p) < NEEDS_FAIRSEQ_FROM])
def test_the_lower_levels_know_nothing_of_fairseq(path):
    assert not any(name.split(".")[0].startswith("fairseq") for name in imports_of(path))


def test_there_are_no_circles():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        if name not in done:
            for imported in IMPORTS[name] - {"user_dir"}:
                visit(imported, (*above, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())
