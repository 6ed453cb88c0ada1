"""OPUS-100 v1.0 as it is published: finding, unpacking and cleaning its language pairs."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.parallel_lines import PairWriter, clean_pairs, read_aligned
from user_dir.text.large.sentence_hashes import read_hashes, sentence_hash, write_hashes
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.archives import copy_stream, each_file

# fairseq's names of the splits and OPUS-100's.
SPLITS = {"train": "train", "valid": "dev", "test": "test"}

_SUPERVISED = (".", "supervised", "v1.0/supervised", "opus-100-corpus/v1.0/supervised")
_MEMBER = re.compile(
    r"(?:.*/)?supervised/(?P<pair>[^/]+)/opus\.(?P=pair)-(?:train|dev|test)\.[^./-]+"
)


def find_supervised(folder: Path) -> Path:
    """The folder that holds the pairs' folders; `CorpusError` if there is none."""
    for name in _SUPERVISED:
        if any((folder / name).glob("*-*/opus.*-train.*")):
            return folder / name
    raise CorpusError(
        f"--raw ({folder}) holds no OPUS-100: there is no "
        "opus-100-corpus/v1.0/supervised/A-B/opus.A-B-train.A in it; name the folder in which "
        "the tarball was unpacked"
    )


def unpack(
    tarball: Path, folder: Path, wanted: Collection[str] | None, tell: Callable[[str], None]
) -> int:
    """Unpack the supervised pairs (names such as de-en; None: all); returns how many.

    Reads the tarball as a stream to its end, so that damage anywhere in it is noticed.
    """
    seen: set[str] = set()
    for name, file in each_file(tarball):
        match = _MEMBER.fullmatch(name)
        if match is None or (wanted is not None and match["pair"] not in wanted):
            continue
        if match["pair"] not in seen:
            seen.add(match["pair"])
            tell(f"  {match['pair']} [{len(seen)}]")
        target = folder / match["pair"] / name.rsplit("/", 1)[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_stream(file, target, tarball)
    if not seen:
        raise CorpusError(
            f"--tarball ({tarball}) holds none of the wanted pairs below supervised/; is it "
            "opus-100-corpus-v1.0.tar.gz?"
        )
    return len(seen)


def published_pairs(supervised: Path) -> list[Pair]:
    """Every pair in the folder, by its published name, sorted."""
    names = sorted(path.parent.name for path in supervised.glob("*-*/opus.*-train.*"))
    return parse_directions(",".join(dict.fromkeys(names)), flag=str(supervised))


def choose(directions: str, published: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(directions, pairs as published) for "all" or a list such as "en-de,fr-en"."""
    if directions == "all":
        return [one for pair in published for one in _from_english_first(pair)], list(published)
    wanted = parse_directions(directions, flag="--directions")
    for one in wanted:
        if one not in published and one.reversed() not in published:
            raise CorpusError(
                f'--directions ({directions}): the corpus has no "{one}"; it has '
                f"{', '.join(map(str, published))}"
            )
    return wanted, [pair for pair in published if pair in wanted or pair.reversed() in wanted]


def names_of(directions: str) -> set[str] | None:
    """The pair names, in both orders, that a list of directions may be published under."""
    if directions == "all":
        return None
    wanted = parse_directions(directions, flag="--directions")
    return {str(name) for one in wanted for name in (one, one.reversed())}


def split_files(supervised: Path, pair: Pair, split: str) -> TextPair | None:
    """The published files of one split, None if the pair has no such split.

    Raises `CorpusError` if one of the two sides is missing.
    """
    stem = supervised / str(pair) / f"opus.{pair}-{SPLITS[split]}"
    paths = [stem.with_name(f"{stem.name}.{language}") for language in pair.languages]
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == 2 and split != "train":
        return None
    if missing:
        raise CorpusError(f"{missing[0]}: no such file, but the pair {pair} needs it")
    return TextPair(paths[0], paths[1])


def write_test_hashes(supervised: Path, pairs: Sequence[Pair], path: Path) -> int:
    """Write a hash of every line of every test set with its language; returns how many."""
    hashes: set[int] = set()
    for pair in pairs:
        files = split_files(supervised, pair, "test")
        if files is None:
            continue
        with files.source.open("rb") as source, files.target.open("rb") as target:
            names = str(files.source), str(files.target)
            for lines in read_aligned(source, target, names=names):
                for _, *texts in clean_pairs(lines).pairs:
                    hashes.update(map(sentence_hash, pair.languages, texts))
    write_hashes(path, hashes)
    return len(hashes)


def write_pair_text(
    supervised: Path,
    pair: Pair,
    outputs: dict[str, TextPair],
    *,
    test_hashes: Path,
    drop_test_overlap: bool,
) -> dict[str, Any]:
    """Clean the splits of one pair and look for training sentences that some test set holds.

    Returns {split: lines}, why pairs were dropped, and the number of training pairs of which a
    side, in its language, is a sentence of any test set.
    """
    in_tests = read_hashes([test_hashes])
    facts: dict[str, Any] = {"lines": {}, "dropped": {}, "test_overlap": 0}
    for split, output in outputs.items():
        files = split_files(supervised, pair, split)
        if files is None:
            continue
        dropped: Counter[str] = Counter()
        with ExitStack() as stack:
            writer = stack.enter_context(PairWriter(output.source, output.target))
            source = stack.enter_context(files.source.open("rb"))
            target = stack.enter_context(files.target.open("rb"))
            names = str(files.source), str(files.target)
            for lines in read_aligned(source, target, names=names):
                cleaned = clean_pairs(lines)
                dropped.update(cleaned.dropped)
                for _, *texts in cleaned.pairs:
                    if split == "train" and any(
                        sentence_hash(language, text) in in_tests
                        for language, text in zip(pair.languages, texts, strict=True)
                    ):
                        facts["test_overlap"] += 1
                        if drop_test_overlap:
                            continue
                    writer.write(*texts)
            facts["lines"][split] = writer.num_lines
        facts["dropped"][split] = dict(dropped)
        if not facts["lines"][split]:
            raise CorpusError(f"{files.source}: no pair of lines is left after cleaning")
    return facts


def _from_english_first(pair: Pair) -> tuple[Pair, Pair]:
    return (pair.reversed(), pair) if pair.target == "en" else (pair, pair.reversed())
