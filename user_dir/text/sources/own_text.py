"""Finding out what the files of one's own text are, and in which languages."""

import re
from collections.abc import Sequence
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.large.cleaning import ParallelText
from user_dir.text.pairs import Pair, language_name
from user_dir.text.sources.formats.compressed import without_compression
from user_dir.text.sources.formats.folder import texts_in, texts_of_prefix
from user_dir.text.sources.formats.json_lines import JsonLines, keys_of_first_line
from user_dir.text.sources.formats.parquet import Parquet, keys_of_columns
from user_dir.text.sources.formats.tab_separated import TabSeparated, first_cells
from user_dir.text.sources.formats.two_files import TwoFiles

# As people end the names of files in a language: en, zh_CN, pt-BR, eng_Latn.
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*")
# Three letters too, but no languages.
_OTHER_ENDINGS = frozenset(
    ("bpe", "csv", "dat", "doc", "out", "raw", "ref", "spm", "src", "tgt", "tok", "trg", "txt")
)
_TABLES = {".tsv", ".jsonl", ".json", ".ndjson", ".parquet"}
_KINDS = (
    "two text files such as corpus.en corpus.de, or files ending in .tsv, .jsonl or .parquet, or a "
    "folder with train.en-de.en and train.en-de.de"
)


def find_texts(paths: Sequence[Path], split: str, *, languages: Pair | None) -> list[ParallelText]:
    """The parallel text in the files that --train, --valid or --test (`split`) names.

    `languages` are those of -s and -t; without them (None) the files tell.

    Raises:
        CorpusError: a file is missing, or its kind or language cannot be told.
    """
    flag = f"--{split}"
    found: list[ParallelText] = []
    plain = []
    for path in paths:
        if path.is_dir():
            found += _wanted(texts_in(path, split, flag=flag), languages, flag, path)
        elif not path.exists():
            of_prefix = texts_of_prefix(path, languages)
            if not of_prefix:
                raise CorpusError(f"{flag} ({path}): no such file; name {_KINDS}")
            found += _wanted(of_prefix, languages, flag, path)
        elif _ending(path) in _TABLES:
            found.append(_table(path, flag, languages))
        else:
            plain.append(path)
    if len(plain) not in (0, 2) or (plain and found):
        raise CorpusError(
            f"{flag} ({' '.join(map(str, plain))}): text files come by two, the same sentences in "
            f"two languages; name {_KINDS}"
        )
    return [_two_files(plain, flag, languages)] if plain else found


def _wanted(
    texts: Sequence[TwoFiles], languages: Pair | None, flag: str, path: Path
) -> Sequence[TwoFiles]:
    """The texts in the languages of -s and -t, if these are given."""
    if languages is None:
        return texts
    wanted = [one for one in texts if one.pair in (languages, languages.reversed())]
    if not wanted:
        there = ", ".join(str(one.pair) for one in texts)
        raise CorpusError(f"{flag} ({path}): there is no text in {languages}, but in {there}")
    return wanted


def _two_files(paths: Sequence[Path], flag: str, languages: Pair | None) -> TwoFiles:
    told = [_as_language(_ending(path).removeprefix(".")) for path in paths]
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


def _table(path: Path, flag: str, languages: Pair | None) -> ParallelText:
    pair = languages or _pair_in_name(path)
    ending = _ending(path)
    if ending == ".tsv":
        cells = first_cells(path)
        columns = _columns(cells, pair)
        if columns is not None:
            pair, numbers = columns
            return TabSeparated(pair, path, numbers, has_header=True)
        if pair is None:
            raise _unknown_languages(path, flag, "nor does its first line name two columns")
        return TabSeparated(pair, path)
    keys = keys_of_columns(path) if ending == ".parquet" else keys_of_first_line(path)
    columns = _columns(keys, pair)
    if columns is None:
        raise _unknown_languages(path, flag, f"and it has {', '.join(keys) or 'no text'}")
    pair, (source, target) = columns
    kind = Parquet if ending == ".parquet" else JsonLines
    return kind(pair, path, (keys[source], keys[target]))


def _columns(names: Sequence[str], pair: Pair | None) -> tuple[Pair, tuple[int, int]] | None:
    """The pair's columns by their names, of any pair if None and there are two languages."""
    languages = [_as_language(name) for name in names]
    if pair is None:
        known = [language for language in languages if language is not None]
        if len(known) != 2 or known[0] == known[1]:
            return None
        pair = Pair(*known)
    if not {*pair.languages} <= {*languages}:
        return None
    return pair, (languages.index(pair.source), languages.index(pair.target))


def _unknown_languages(path: Path, flag: str, what: str) -> CorpusError:
    return CorpusError(
        f"{flag} ({path}): its name tells no two languages, as that of corpus.en-de.tsv does, "
        f"{what}; say with -s and -t which two are meant"
    )


def _pair_in_name(path: Path) -> Pair | None:
    """The languages of a name such as corpus.en-de.tsv."""
    middle = without_compression(path).stem.rpartition(".")[2]
    for hyphen in re.finditer("-", middle):
        source, target = middle[: hyphen.start()], middle[hyphen.end() :]
        languages = _as_language(source), _as_language(target)
        if languages[0] and languages[1] and languages[0] != languages[1]:
            return Pair(languages[0], languages[1])
    return None


def _ending(path: Path) -> str:
    return without_compression(path).suffix


def _as_language(text: str) -> str | None:
    """The language that an ending or the name of a column is, if it is one."""
    if text in _OTHER_ENDINGS or not _LANGUAGE.fullmatch(text):
        return None
    return language_name(text, flag=text)
