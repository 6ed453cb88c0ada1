"""Files that a checkpoint's options name: they hold what they are read as, or are not read.

fairseq quotes the lines that it does not understand. A checkpoint could so have a file printed
that is none of its own, therefore no message here quotes a line.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from user_dir.errors import UserError

# Whatever `scomoe-prepare` takes for one, and what others write with hyphens.
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(-[A-Za-z0-9]{1,8}){0,3}")
_MOST_LANGUAGES = 10_000
_ENTRY = re.compile(r".* -?[0-9]+( #fairseq:overwrite)?", re.DOTALL)
_DICTIONARIES = ("source_dict", "target_dict", "fixed_dictionary")


def check_named_files(options: Mapping[str, Any]) -> None:
    """Refuse a list of languages or a dictionary that is another kind of file.

    Raises:
        UserError: the message names option and file, and nothing of what the file holds.
    """
    if (path := _existing(options.get("lang_dict"))) is not None:
        languages = list(islice(read_lines(path), _MOST_LANGUAGES + 1))
        if len(languages) > _MOST_LANGUAGES or not all(map(is_language, languages)):
            raise UserError(f"its option lang_dict names {path}, which is no list of languages")
    if (path := _existing(options.get("lang_pairs"))) is not None:
        names = (pair for line in read_lines(path) for pair in line.split(","))
        if not all(_is_direction(name.strip()) for name in names):
            raise UserError(f"its option lang_pairs names {path}, which is no list of directions")
    for name in _DICTIONARIES:
        path = _existing(options.get(name))
        if path is not None and not is_dictionary(path):
            raise UserError(f"its option {name} names {path}, which is no dictionary of fairseq's")


def is_language(text: str) -> bool:
    """Whether it looks as names of languages do, such as de, zh_CN, deu_Latn or german."""
    return _LANGUAGE.fullmatch(text) is not None


def _is_direction(text: str) -> bool:
    return all(map(is_language, text.split("-"))) and text.count("-") == 1


def is_dictionary(path: Path) -> bool:
    """Whether fairseq can read all entries of a dictionary: a token and its count each."""
    return all(_ENTRY.fullmatch(line.rstrip()) for line in _raw_lines(path))


def read_lines(path: Path) -> Iterator[str]:
    """The lines that are not empty, without blanks around; a "?" where one cannot be read."""
    return filter(None, (line.strip() for line in _raw_lines(path)))


def _raw_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError):
        yield "?"


def _existing(value: Any) -> Path | None:
    """The file of that name. What cannot be a name is for the check of types."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    path = Path(value)
    try:
        return path if path.is_file() else None
    except OSError:
        return None
