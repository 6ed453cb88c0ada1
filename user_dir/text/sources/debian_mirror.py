"""Getting the lists of package descriptions from a mirror, without apt."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from user_dir.errors import CorpusError
from user_dir.text.sources.archives import sha256_of
from user_dir.text.sources.debian_lists import ENGLISH
from user_dir.text.sources.download import fetch

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
) -> dict[str, list[Path]]:
    """Download the lists of English and of those languages that a mirror has, by language.

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
    lists: dict[str, list[Path]] = {}
    for component in components:
        for language in (ENGLISH, *languages):
            names = [f"{component}/i18n/Translation-{language}{suffix}" for suffix in _SUFFIXES]
            if name := next((name for name in names if name in checksums), None):
                fetched = _fetch(f"{home}/{name}", place / name, sha256=checksums[name])
                tell(f"  {name}: {'downloaded' if fetched else 'there already'}")
                lists.setdefault(language, []).append(place / name)
    if ENGLISH not in lists or len(lists) == 1:
        raise CorpusError(
            f"{home}: has no translated package descriptions in {', '.join(components)}; check "
            "--mirror, --suite and --components"
        )
    return lists


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
