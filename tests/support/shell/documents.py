"""The commands in README and the other documents."""

import re
from pathlib import Path

from tests.support.commands import ROOT

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks" / "README.md",
    )
)


def blocks_of(page: str) -> list[str]:
    """The page's blocks of bash, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def link_scripts(folder: Path) -> None:
    """What the repository has where a command stands, and an environment to be activated."""
    for name in "preprocess_scripts", "train_scripts", "eval_scripts", "benchmarks", "user_dir":
        (folder / name).symlink_to(ROOT / name)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
