"""Debian's package descriptions and their translations: reading and aligning them.

A `Translation-XX` file holds stanzas with the MD5 of the English description, a title, and a text:
lines that begin with one space are wrapped paragraphs, a line " ." ends a paragraph, and deeper
lines stand for themselves, mostly as list items.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from user_dir.text.lines import clean_line
from user_dir.text.sources.sentences import align_sentences

_FIELD = re.compile(r"(?P<name>[!-9;-~]+):(?P<value>.*)")
_ITEM = re.compile(r"\s*(?:[*+•·–—−-]|(?<=\s)o)\s+(?P<text>.*)")
_WIDE = re.compile("[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")


@dataclass(frozen=True)
class Description:
    """A title, and blocks of text; a block is a paragraph and the list items that belong to it."""

    md5: str  # of the English description, whatever the language
    title: str
    blocks: list[list[str]]


@dataclass(frozen=True)
class Translated:
    """An English text and a translation of it."""

    english: str
    translation: str


def read_descriptions(lines: Iterable[str], language: str) -> Iterator[Description]:
    """The descriptions of a `Translation-LANGUAGE` file, in its order.

    Stanzas without a description in the language are passed over.
    """
    key = f"description-{language}".lower()
    fields: dict[str, list[str]] = {}
    current: list[str] = []
    for line in chain(lines, [""]):
        line = line.rstrip("\r\n")
        if line.startswith((" ", "\t")):
            current.append(line[1:])
        elif field := _FIELD.fullmatch(line):
            current = fields.setdefault(field["name"].lower(), [])
            current[:] = [field["value"]]
        elif not line.strip():
            if key in fields and "description-md5" in fields:
                title, *body = fields[key]
                md5 = fields["description-md5"][0].strip()
                yield Description(md5, clean_line(title), _blocks(body))
            fields = {}


def align(
    english: Mapping[str, Description], translations: Iterable[Description]
) -> Iterator[Translated]:
    """Titles, and sentences where both sides have equally many of everything above them.

    A block whose parts differ in number is left out; a part whose sentences do is aligned as a
    whole. `english` holds the descriptions by their MD5.
    """
    for other in translations:
        if other.md5 in english:
            for pair in _align_description(english[other.md5], other):
                if _is_translation(pair):
                    yield pair


def _blocks(body: Iterable[str]) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    start: _Start | None = None  # of the part that the next line may go on with
    for line in body:
        depth = len(line) - len(line.lstrip())
        if line.strip() == ".":
            blocks.append([])
            start = None
        elif item := _ITEM.fullmatch(line):
            blocks[-1].append(item["text"].strip())
            start = _Start(depth, is_item=True)
        elif start and start.goes_on_at(depth):
            blocks[-1][-1] = _joined(blocks[-1][-1], line.strip())
        else:
            blocks[-1].append(line.strip())
            start = _Start(depth, is_item=False)
    cleaned = ([clean_line(part) for part in block] for block in blocks)
    return [block for block in cleaned if any(block)]


@dataclass(frozen=True)
class _Start:
    """Where a paragraph, an item or a line that stands for itself begins."""

    depth: int
    is_item: bool

    def goes_on_at(self, depth: int) -> bool:
        if self.depth == 0:
            return self.is_item or depth == 0
        return depth > self.depth


def _joined(before: str, line: str) -> str:
    """Two wrapped lines; Chinese and Japanese have no space between them."""
    return before + line if _WIDE.match(before[-1:]) and _WIDE.match(line) else f"{before} {line}"


def _align_description(english: Description, other: Description) -> Iterator[Translated]:
    yield Translated(english.title, other.title)
    if len(english.blocks) != len(other.blocks):
        return
    for blocks in zip(english.blocks, other.blocks, strict=True):
        if len(blocks[0]) != len(blocks[1]):
            continue
        for parts in zip(*blocks, strict=True):
            for sentences in align_sentences(*parts):
                yield Translated(*sentences)


def _is_translation(pair: Translated) -> bool:
    """Untranslated text, and what has no words, teaches nothing."""
    sides = pair.english, pair.translation
    return sides[0] != sides[1] and all(any(map(str.isalpha, side)) for side in sides)
