"""Language pairs: which directions are trained, and which pairs are stored once for both."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from user_dir.errors import CorpusError

_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Pair:
    """A language pair, such as en-de; whether as a direction or not is the holder's matter."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def languages(self) -> tuple[str, str]:
        """Both languages, source first."""
        return self.source, self.target

    def reversed(self) -> "Pair":
        """The same languages the other way round."""
        return Pair(self.target, self.source)


def parse_directions(text: str, *, flag: str = "--pair") -> list[Pair]:
    """The directions in a list such as "en-de,de-en,en-fr"; `CorpusError` names a bad one."""
    directions: list[Pair] = []
    for name in (part.strip() for part in text.split(",")):
        languages = name.split("-")
        if len(languages) != 2 or not all(map(_LANGUAGE.fullmatch, languages)):
            raise CorpusError(
                f'{flag} ({text}): "{name}" must be two languages joined by a hyphen, like en-de'
            )
        if languages[0] == languages[1]:
            raise CorpusError(f'{flag} ({text}): "{name}" must name two different languages')
        pair = Pair(*languages)
        if pair in directions:
            raise CorpusError(f'{flag} ({text}): "{name}" is there twice; once would do')
        directions.append(pair)
    return directions


def language_name(text: str, *, flag: str) -> str:
    """A language as people write it, such as pt-BR or eng_Latn, without the pairs' hyphen.

    Raises `CorpusError`, naming the flag, if it is none.
    """
    name = text.replace("-", "_")
    if not _LANGUAGE.fullmatch(name):
        raise CorpusError(f"{flag} ({text}) must be a language such as en, zh_CN or eng_Latn")
    return name


def with_language_names(text: str, languages: Iterable[str]) -> str:
    """A list of directions in which languages such as pt-BR are called as `language_name` does."""
    for name in languages:
        text = text.replace(name.replace("_", "-"), name)
    return text


def stored_pairs(directions: list[Pair]) -> list[Pair]:
    """One pair for each two languages, in the order in which the directions first name them.

    fairseq finds the files of en-de for the direction de-en as well.
    """
    pairs: list[Pair] = []
    for direction in directions:
        if direction not in pairs and direction.reversed() not in pairs:
            pairs.append(direction)
    return pairs


def languages_of(pairs: list[Pair]) -> list[str]:
    """Every language of the pairs, sorted: the order must not depend on how a list is written."""
    return sorted({language for pair in pairs for language in pair.languages})
