from collections import Counter

import pytest

from user_dir.errors import CorpusError
from user_dir.text.subwords import learn_subwords

TEXT = ["ein roter Ball", "ein roter Hund läuft", "a red ball", "a red dog is running"] * 3


def test_decoding_returns_the_text_and_unknown_characters_become_unk():
    subwords = learn_subwords(TEXT, vocab_size=60)
    for line, encoded in zip(TEXT, subwords.encode(TEXT), strict=True):
        assert subwords.decode(encoded) == line
        assert set(encoded.split(" ")) <= set(subwords.pieces)
    assert "<unk>" in subwords.encode(["a red 猫"])[0].split(" ")


def test_the_dictionary_holds_every_piece_once_most_frequent_first_without_fairseqs_own():
    subwords = learn_subwords(TEXT, vocab_size=60)
    counts = Counter(" ".join(subwords.encode(TEXT)).split(" "))
    entries = [line.rsplit(" ", 1) for line in subwords.dictionary_lines(counts)]
    assert sorted(piece for piece, _ in entries) == sorted(subwords.pieces[4:])
    assert all(int(count) == counts[piece] for piece, count in entries)
    assert entries == sorted(entries, key=lambda entry: -int(entry[1]))


def test_fairseqs_symbols_in_the_text_never_become_special_pieces():
    text = ["a<pad>b <pad> x<pad> <s>"] * 5
    subwords = learn_subwords(text, vocab_size=60)
    assert not {"<pad>", "<s>", "</s>"} & set(subwords.encode(text)[0].split(" "))
    assert len(subwords.pieces) == len(set(subwords.pieces))


def test_training_is_deterministic_and_stops_where_the_text_yields_no_more_pieces(tmp_path):
    first, second = (learn_subwords(TEXT, vocab_size=5000) for _ in range(2))
    assert first.pieces == second.pieces and first.model == second.model
    assert len(first.pieces) < 5000
    first.save(tmp_path)
    lines = (tmp_path / "spm.vocab").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == first.pieces


def test_a_vocabulary_too_small_for_the_characters_names_the_least_that_works():
    with pytest.raises(CorpusError, match=r"--vocab-size \(5\)") as error:
        learn_subwords(TEXT, vocab_size=5)
    least = int(str(error.value).split("; ")[1].split(" ")[0])
    assert len(learn_subwords(TEXT, vocab_size=least).pieces) == least
    with pytest.raises(CorpusError):
        learn_subwords(TEXT, vocab_size=least - 1)
