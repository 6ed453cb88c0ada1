"""Files with the package descriptions of a Debian or Ubuntu archive, one a language."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError

ENGLISH = "en"
# Of Debian 12 these have 3,000 sentences or more.
LANGUAGES = (
    *("cs", "da", "de", "es", "fr", "it", "ja", "ko"),
    *("pl", "pt", "pt_BR", "ru", "sk", "uk", "zh_CN"),
)
_OPENERS: dict[str, Callable[..., Any]] = {
    "": open,
    ".bz2": bz2.open,
    ".gz": gzip.open,
    ".xz": lzma.open,
}
# apt writes "_" within a name as "%5f", and before the name the place that a list is from.
_NAME = re.compile(
    r"(?:.*_)?Translation-(?P<language>[A-Za-z]+(?:(?:_|%5f)[A-Za-z]+)?)(?P<suffix>\.\w+)?"
)


def find_lists(folder: Path) -> dict[str, list[Path]]:
    """The `Translation-LANGUAGE` files in a folder and those below it, by language.

    Of several compressions of one list the first is taken. Raises `CorpusError` if English has
    none, or no other language.
    """
    found: dict[str, dict[Path, Path]] = {}
    for path in sorted(folder.rglob("*Translation-*")):
        match = _NAME.fullmatch(path.name)
        if match and (match["suffix"] or "") in _OPENERS and path.is_file():
            language = match["language"].replace("%5f", "_")
            stem = path.with_name(path.name.removesuffix(match["suffix"] or ""))
            found.setdefault(language, {}).setdefault(stem, path)
    if ENGLISH not in found or len(found) == 1:
        what = "only Translation-en" if ENGLISH in found else "no Translation-en"
        raise CorpusError(
            f"{folder}: holds {what}; there must be files such as Translation-en.xz and "
            "Translation-de.bz2, as in dists/SUITE/main/i18n of a mirror"
        )
    return {language: list(paths.values()) for language, paths in sorted(found.items())}


def read_list(path: Path) -> Iterator[str]:
    """The lines of a list, compressed or not; `CorpusError` on damage."""
    lines = 0
    suffix = path.suffix if path.suffix in _OPENERS else ""
    try:
        with _OPENERS[suffix](path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                lines += 1
                yield line
    except (EOFError, OSError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        raise CorpusError(
            f"{path}: unreadable from about line {lines + 1} on ({error}); get the file again"
        ) from None
