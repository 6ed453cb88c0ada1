"""GNOME's user documentation in many languages, aligned by where in a page a text stands."""

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.lines import clean_line
from user_dir.text.sources.sentences import align_sentences

ENGLISH = "en"
_ENGLISH_FOLDER = "C"
_TEXTS = frozenset({"title", "desc", "p"})

# Where a text stands, in a page of whatever language -> the text
Texts = Mapping[str, str]


def read_gnome(folder: Path) -> Mapping[str, Texts]:
    """The paragraphs and titles of every language in a folder such as /usr/share/help.

    Raises `CorpusError` if English has none, or for a page that is no XML.
    """
    texts: dict[str, dict[str, str]] = {}
    for page in sorted(folder.glob("*/*/*.page")):
        language = page.relative_to(folder).parts[0]
        language = ENGLISH if language == _ENGLISH_FOLDER else language
        name = "/".join(page.relative_to(folder).parts[1:])
        found = texts.setdefault(language, {})
        for place, text in _texts(_parse(page), name):
            found[place] = text
    if ENGLISH not in texts:
        raise CorpusError(
            f"{folder}: holds no {_ENGLISH_FOLDER}/gnome-help/*.page; it must be a folder with "
            "one for each language, such as /usr/share/help where gnome-user-docs is installed"
        )
    return texts


def align_texts(
    source: Texts, target: Texts, *, most: int, seed: int
) -> tuple[list[str], list[str]]:
    """The distinct sentence pairs of two languages, or `most` of them.

    Places are drawn in one order for all languages, so that their sentences are mostly the same.
    """
    places = sorted(source)
    random.Random(seed).shuffle(places)
    pairs: dict[tuple[str, str], None] = {}
    for place in places:
        # What is the same in both is not translated.
        if place in target and source[place] != target[place]:
            pairs.update(dict.fromkeys(align_sentences(source[place], target[place])))
        if len(pairs) >= most:
            break
    kept = [pair for pair in pairs if pair[0] != pair[1]][:most]
    return [one for one, _ in kept], [other for _, other in kept]


def _parse(page: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(page).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise CorpusError(f"{page}: cannot be read ({error}); get the package again") from None


def _texts(element: ElementTree.Element, place: str) -> Iterator[tuple[str, str]]:
    """Every text below an element; translations have more credits, which shift no other text."""
    numbers: dict[str, int] = {}
    for child in element:
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""  # or a comment
        numbers[tag] = numbers.get(tag, 0) + 1
        here = f"{place}/{tag}{numbers[tag]}"
        if tag not in _TEXTS:
            yield from _texts(child, here)
        elif any(map(str.isalpha, text := clean_line("".join(child.itertext())))):
            yield here, text
