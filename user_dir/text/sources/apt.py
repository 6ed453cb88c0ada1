"""What apt can get from its configured mirrors, in a folder of ours.

Nothing of the system changes, and no root is needed.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.sources.debian_lists import ENGLISH


def fetch_lists(folder: Path, *, languages: Sequence[str], otherwise: str) -> Path:
    """The package descriptions in English and other languages; returns the folder with them.

    Raises `CorpusError` if there is no apt, or if it gets none; `otherwise` says what to do then.
    """
    place = folder.resolve() / "apt"
    settings = {
        "Acquire::Languages": ",".join((ENGLISH, *languages)),
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
    }
    said = _apt(place, "update", settings=settings, otherwise=otherwise)
    if not list(place.glob("*_Translation-en")):
        raise _no_luck("update", said, otherwise)
    return place


def unpack_package(folder: Path, name: str, *, otherwise: str) -> Path:
    """Download a package and unpack it, without installing it; returns the folder with its files.

    Raises `CorpusError` if there is no apt, or if it does not get the package; `otherwise` says
    what to do then.
    """
    lists = folder.resolve() / "apt-packages"
    settings = {"Acquire::Languages": "none"}
    _apt(lists, "update", settings=settings, otherwise=otherwise)
    archives = lists / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir()
    said = _apt(lists, "download", name, settings=settings, otherwise=otherwise, cwd=archives)
    found = list(archives.glob("*.deb"))
    if not found or shutil.which("dpkg-deb") is None:
        raise _no_luck("download", said, otherwise)
    place = folder.resolve() / name
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--extract", found[0], place], check=True)
    return place


def _apt(
    lists: Path,
    *words: str,
    settings: dict[str, str],
    otherwise: str,
    cwd: Path | None = None,
) -> Sequence[str]:
    """Run apt-get with a folder of its own; returns its warnings."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise CorpusError(f"there is no apt-get here; {otherwise}")
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    settings = settings | {
        "Dir::State::Lists": str(lists),
        "Acquire::GzipIndexes": "false",
        # The system's cache belongs to its own lists.
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    done = subprocess.run([apt, *words, *options], capture_output=True, text=True, cwd=cwd)
    said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    if done.returncode != 0:
        raise _no_luck(words[0], said, otherwise)
    return said


def _no_luck(word: str, said: Sequence[str], otherwise: str) -> CorpusError:
    reason = said[-1] if said else "it gives no reason"
    return CorpusError(f"apt-get {word} did not get what is asked for ({reason}); {otherwise}")
