"""Multi30k, task 1: image captions in English, German, French and Czech."""

from pathlib import Path

from user_dir.text.corpus import Corpus
from user_dir.text.lines import read_parallel
from user_dir.text.pairs import Pair, languages_of, stored_pairs

PUBLIC_HOME = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
FILE_STEMS = {"train": "train", "valid": "val", "test": "test_2016_flickr"}


def file_names(directions: list[Pair]) -> list[str]:
    """The corpus files that these directions need."""
    return [
        _file_name(split, language) for split in FILE_STEMS for language in languages_of(directions)
    ]


def read_multi30k(folder: Path, directions: list[Pair]) -> Corpus:
    """Read and check the files; line N of every language is the same sentence."""
    languages = languages_of(directions)
    texts = {}
    for split in FILE_STEMS:
        sides = read_parallel([folder / _file_name(split, language) for language in languages])
        by_language = dict(zip(languages, sides, strict=True))
        for pair in stored_pairs(directions):
            texts[split, pair] = by_language[pair.source], by_language[pair.target]
    return Corpus(directions=directions, texts=texts)


def _file_name(split: str, language: str) -> str:
    return f"{FILE_STEMS[split]}.{language}.gz"
