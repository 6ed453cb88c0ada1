"""A JSON object a line: {"translation": {"en": …, "de": …}}, or the languages themselves."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError
from user_dir.text.sources.formats.compressed import text_lines
from user_dir.text.sources.formats.one_file import OneFile

NESTED = "translation"  # as data sets of Hugging Face have it


@dataclass(frozen=True)
class JsonLines(OneFile):
    """Two languages of a file; `keys` are the names that it has for them."""

    keys: tuple[str, str]

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        with closing(text_lines(self.path)) as lines:
            for number, line in enumerate(lines, start=1):
                texts = _texts(line, self.path, number)
                source, target = (self._text(texts, key, number) for key in self.keys)
                yield source, target

    def _text(self, texts: dict[str, Any], key: str, number: int) -> bytes:
        text = texts.get(key)
        if key not in texts or not isinstance(text, str | None):
            found = ", ".join(map(str, texts)) or "nothing"
            raise CorpusError(
                f'{self.path}, line {number}: has no text "{key}", but {found}; every line must '
                "have both languages"
            )
        # A lone surrogate, which JSON can write, has no bytes of its own.
        return (text or "").encode(errors="replace")


def keys_of_first_line(path: Path) -> list[str]:
    """The names under which the first line has text; none of an empty file."""
    with closing(text_lines(path)) as lines:
        first = next(lines, None)
    return [] if first is None else [str(key) for key in _texts(first, path, 1)]


def _texts(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        texts = row.get(NESTED, row)
        texts.keys()
    except (AttributeError, RecursionError, ValueError):  # of bytes that are no UTF-8, too
        raise CorpusError(
            f"{path}, line {number}: not a JSON object in UTF-8; give one a line, such as "
            '{"translation": {"en": "a dog", "de": "ein Hund"}}'
        ) from None
    return texts
