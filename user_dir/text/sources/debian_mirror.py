"""Getting the lists of package descriptions: from a mirror, or through apt's own client."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from user_dir.errors import CorpusError
from user_dir.text.sources.archives import sha256_of
from user_dir.text.sources.debian_lists import ENGLISH
from user_dir.text.sources.download import fetch

# Of Debian 12 these have 3,000 sentences or more.
LANGUAGES = (
    *("cs", "da", "de", "es", "fr", "it", "ja", "ko"),
    *("pl", "pt", "pt_BR", "ru", "sk", "uk", "zh_CN"),
)
_SUFFIXES = (".xz", ".bz2", ".gz", "")  # the smallest first
_CHECKSUM = re.compile(r" (?P<sha256>[0-9a-f]{64}) +\d+ (?P<name>\S+)")


def fetch_from_mirror(
    mirror: str,
    folder: Path,
    *,
    suite: str,
    components: Sequence[str],
    languages: Sequence[str],
    tell: Callable[[str], None],
) -> Path:
    """Download the lists of English and of those languages that a mirror has; where they are.

    A list that is there already stays if it has the checksum in the suite's InRelease. The
    signature of that file is apt's business and is not looked at. Raises `CorpusError` if a
    file cannot be had.
    """
    home = f"{mirror.rstrip('/')}/dists/{suite}"
    place = folder / quote(mirror.rstrip("/"), safe="") / suite
    release = place / "InRelease"
    release.unlink(missing_ok=True)
    fetch(f"{home}/InRelease", release, check=_check_release)
    checksums = _checksums(release)
    for component in components:
        for language in (ENGLISH, *languages):
            names = [f"{component}/i18n/Translation-{language}{suffix}" for suffix in _SUFFIXES]
            if name := next((name for name in names if name in checksums), None):
                fetched = _fetch(f"{home}/{name}", place / name, sha256=checksums[name])
                tell(f"  {name}: {'downloaded' if fetched else 'there already'}")
    return place


def fetch_with_apt(folder: Path, *, languages: Sequence[str]) -> Path:
    """Let apt get the lists of English and other languages from its configured mirrors.

    Nothing of the system changes and no root is needed. Returns where they are; raises
    `CorpusError` if there is no apt, or if it fails.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise CorpusError(
            "there is no apt-get here; name a mirror with --mirror, such as "
            "http://deb.debian.org/debian, or a folder of lists with --raw"
        )
    place = folder.resolve() / "apt"
    (place / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::Lists": str(place),
        "Acquire::Languages": ",".join((ENGLISH, *languages)),
        "Acquire::GzipIndexes": "false",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        # The system's cache belongs to its own lists.
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    done = subprocess.run([apt, "update", *options], capture_output=True, text=True)
    if done.returncode != 0 or not list(place.glob("*_Translation-en")):
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        raise CorpusError(
            f"apt-get update could not get the package descriptions "
            f"({said[-1] if said else 'it did not say why'}); name a mirror with --mirror, or a "
            "folder of lists with --raw"
        )
    return place


def _checksums(release: Path) -> dict[str, str]:
    """The SHA-256 of every file that a suite offers."""
    text = release.read_text("utf-8", errors="replace")
    matches = map(_CHECKSUM.fullmatch, text.splitlines())
    return {match["name"]: match["sha256"] for match in matches if match}


def _check_release(path: Path) -> None:
    if not _checksums(path):
        raise CorpusError("not the index of a suite; check --mirror and --suite")


def _fetch(url: str, path: Path, *, sha256: str) -> bool:
    def check(path: Path) -> None:
        if sha256_of(path) != sha256:
            raise CorpusError("its checksum is not the one in InRelease; try again later")

    if path.exists() and sha256_of(path) != sha256:  # of an earlier state of the suite
        path.unlink()
    return fetch(url, path, check=check)
