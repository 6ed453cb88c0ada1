"""The house: what a folder's place allows it to import. Read from the tree, stated nowhere else.

Data goes one way. The parts of `user_dir` stand in one order; inside every folder the files and
folders can be put in one, so nothing imports back up and there are no circles.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "user_dir"
# From the ground up: each imports from those before it only.
ORDER = (
    "errors",
    "option_values",
    "fast_moe",
    "text",
    "reporting",
    "checkpoints",
    "transformer",
    "planning",
    "training",
    "register",
    "translation",
    "exporting",
    "cli",
)
WITHOUT_FAIRSEQ = ("errors", "fast_moe", "text", "reporting", "planning")
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})


def name_of(path: Path) -> tuple[str, ...]:
    """The parts of a module's name below the package; a folder's face bears the folder's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


NAMES = {name_of(path) for path in MODULES}


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Everything that a file imports, in functions too, as absolute dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def modules_imported_by(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports."""
    ours = {tuple(n.split(".")[1:]) for n in imported_names(path) if n.startswith("user_dir.")}
    return (ours & NAMES) - {name_of(path)}


def arrows_in(folder: Path) -> dict[str, set[str]]:
    """Among the files and folders of a folder: who imports whom, at whatever depth."""
    place = name_of(folder / "__init__.py")
    arrows: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        own = name_of(path)[len(place) :]
        if not own:  # the folder's face may name what is inside
            continue
        targets = {
            name[len(place)]
            for name in modules_imported_by(path)
            if name[: len(place)] == place and len(name) > len(place)
        }
        arrows.setdefault(own[0], set()).update(targets - {own[0]})
    return arrows


def test_every_part_of_the_house_has_its_place():
    assert {name[0] for name in NAMES if name} == set(ORDER)


@pytest.mark.parametrize("part", ORDER)
def test_a_part_imports_from_the_parts_below_it_only(part):
    below = set(ORDER[: ORDER.index(part)])
    upwards = arrows_in(PACKAGE)[part] - below
    assert not upwards, f"{part} imports {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_nothing_in_a_folder_imports_in_a_circle(folder):
    arrows = arrows_in(folder)

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle in {folder}: {' -> '.join([*above, name])}"
        for target in arrows.get(name, ()):
            visit(target, (*above, name))

    for name in arrows:
        visit(name, ())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_does_not_import_its_own_face_from_inside(folder):
    """What the files inside import must not be what they are: `__init__` gathers, no more."""
    place = name_of(folder / "__init__.py")
    for path in folder.glob("*.py"):
        if path.name != "__init__.py" and place:
            assert place not in _froms(path), f"{path} imports {'.'.join(place)} itself"


def _froms(path: Path) -> set[tuple[str, ...]]:
    """The modules that names are taken from; `from a.b import c` with a module c is of a.b.c."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("user_dir."):
            module = tuple(str(node.module).split(".")[1:])
            if any((*module, alias.name) not in NAMES for alias in node.names):
                found.add(module)
    return found


@pytest.mark.parametrize(
    "path", [p for p in MODULES if name_of(p)[:1] and name_of(p)[0] in WITHOUT_FAIRSEQ], ids=str
)
def test_layer_and_text_know_nothing_of_fairseq(path):
    assert not any(name.split(".")[0].startswith("fairseq") for name in imported_names(path))


def test_a_plan_needs_no_fairseq():
    """Nor does anything that is imported with what it imports, at whatever distance."""
    paths = {name_of(path): path for path in MODULES}
    commands = [("cli", "plan"), ("cli", "plan_probe")]
    seen = {name for command in commands for name in modules_imported_by(paths[command])}
    waiting = list(seen)
    while waiting:
        found = _at_once(paths[waiting.pop()])
        assert not any(name.startswith("fairseq") for name in found)
        ours = {tuple(name.split(".")[1:]) for name in found if name.startswith("user_dir.")}
        waiting += (ours & NAMES) - seen
        seen |= ours & NAMES
    assert {("planning", "setting"), ("planning", "probe"), ("training", "connection")} <= seen


def _at_once(path: Path) -> set[str]:
    """What importing a file imports: all but what its functions do."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{a.name}" for a in node.names}
        elif not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)
    return found


def test_unit_tests_lie_where_the_code_lies():
    here = Path(__file__).parent
    folders = {path.parent.relative_to(here) for path in here.rglob("test_*.py")}
    for folder in folders:
        assert (PACKAGE / folder).is_dir(), f"tests/unit/{folder} mirrors no folder of user_dir"
