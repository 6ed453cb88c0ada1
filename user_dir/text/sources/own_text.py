"""Finding out what the files of one's own text are, and in which languages."""

import re
from collections.abc import Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.large.cleaning import ParallelText
from user_dir.text.pairs import Pair, language_name
from user_dir.text.sources.formats.compressed import without_compression
from user_dir.text.sources.formats.two_files import TwoFiles

# As people end the names of files in a language: en, zh_CN, pt-BR, eng_Latn.
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*")
# Three letters too, but no languages.
_OTHER_ENDINGS = frozenset(
    (
        "bpe",
        "csv",
        "dat",
        "doc",
        "out",
        "raw",
        "ref",
        "spm",
        "src",
        "tgt",
        "tok",
        "trg",
        "tsv",
        "txt",
    )
)


def find_texts(paths: Sequence[Path], *, flag: str, languages: Pair | None) -> list[ParallelText]:
    """The parallel text in the files that one flag names.

    `languages` are those of -s and -t; without them (None) the files' names tell.

    Raises:
        CorpusError: a file is missing, or its kind or language cannot be told.
    """
    for path in paths:
        if not path.is_file():
            what = "is no file" if path.exists() else "no such file"
            raise CorpusError(f"{flag} ({path}): {what}; name a file of text")
    if len(paths) != 2:
        raise CorpusError(
            f"{flag} takes two text files, the same sentences in two languages, not {len(paths)} "
            f"({' '.join(map(str, paths))})"
        )
    return [_two_files(paths, flag, languages)]


def _two_files(paths: Sequence[Path], flag: str, languages: Pair | None) -> TwoFiles:
    told = [_language_of(path) for path in paths]
    source, target = paths
    if languages is None:
        if None in told or told[0] == told[1]:
            raise CorpusError(
                f"{flag} ({source} {target}): the names do not end in two languages, as of "
                "corpus.en and corpus.de; say with -s and -t which they are"
            )
        return TwoFiles(Pair(str(told[0]), str(told[1])), (source, target))
    if told == [languages.target, languages.source]:
        source, target = target, source
    return TwoFiles(languages, (source, target))


def _language_of(path: Path) -> str | None:
    """The language that a name ends in, if it does."""
    ending = without_compression(path).suffix.removeprefix(".")
    if ending in _OTHER_ENDINGS or not _LANGUAGE.fullmatch(ending):
        return None
    return language_name(ending, flag=str(path))
