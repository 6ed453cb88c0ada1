"""Which sentences are held out of a text, and that training keeps none of them."""

from collections import Counter

import pytest

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import TextPair
from user_dir.text.large.held_out import write_held_out
from user_dir.text.large.sentence_hashes import read_hashes, sentence_hash, write_hashes
from user_dir.text.pairs import Pair

EN_DE, EN_FR = Pair("en", "de"), Pair("en", "fr")


def held(folder, pair, sentences, **sizes):
    outputs = {
        split: TextPair(*(folder / f"{split}.{pair}.{one}" for one in pair.languages))
        for split in sizes
    }
    hashes = write_held_out(sentences, pair, sizes, outputs)
    return {
        split: list(
            zip(
                files.source.read_text().splitlines(),
                files.target.read_text().splitlines(),
                strict=True,
            )
        )
        for split, files in outputs.items()
    }, hashes


def test_each_sentence_is_held_out_once_whatever_its_translations(tmp_path):
    text = [(f"s{n % 50}", f"t{n}") for n in range(300)]
    sets, hashes = held(tmp_path, EN_DE, text, valid=7, test=9)
    sources = [source for pairs in sets.values() for source, _ in pairs]
    assert Counter(map(len, sets.values())) == {7: 1, 9: 1} and len(set(sources)) == 16
    for pairs in sets.values():
        assert all(int(target[1:]) < 50 for _, target in pairs), "not the first translation"
    sides = {
        (one, line)
        for p in sets.values()
        for pair in p
        for one, line in zip(("en", "de"), pair, strict=True)
    }
    assert hashes == {sentence_hash(*side) for side in sides}


def test_pairs_with_a_common_language_hold_out_the_same_sentences(tmp_path):
    for pair in EN_DE, EN_FR:
        (tmp_path / str(pair)).mkdir()
    german, _ = held(tmp_path / "en-de", EN_DE, [(f"s{n}", "x") for n in range(80)], test=5)
    text = [(f"s{n}", "y") for n in reversed(range(80))]
    french, _ = held(tmp_path / "en-fr", EN_FR, text, test=5, valid=5)
    assert [source for source, _ in german["test"]] == [source for source, _ in french["test"]]


def test_too_few_different_sentences_are_told(tmp_path):
    with pytest.raises(CorpusError, match=r"--test-lines \(30\): en-de has too few"):
        held(tmp_path, EN_DE, [(f"s{n % 20}", "x") for n in range(500)], test=30)


def test_hashes_are_read_as_they_were_written(tmp_path):
    for name, words in ("a", "one two"), ("b", "two three"):
        write_hashes(tmp_path / name, {sentence_hash("en", word) for word in words.split()})
    read = read_hashes([tmp_path / "a", tmp_path / "b"])
    assert read == {sentence_hash("en", word) for word in ("one", "two", "three")}
    assert sentence_hash("de", "one") not in read
