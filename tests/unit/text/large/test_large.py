"""Reading, sampling, limiting: the parts that the commands for large corpora are made of."""

import io
import random
from collections import Counter

import pytest

from user_dir.errors import CorpusError
from user_dir.text.large.encoding import (
    Limits,
    TextPair,
    encode_files,
    encode_lines,
    read_counts,
    write_counts,
)
from user_dir.text.large.parallel_lines import LINES_AT_ONCE, clean_pairs, read_aligned
from user_dir.text.sampling import TextFile, sample_lines, share_out
from user_dir.text.sources.moses import moses_normaliser
from user_dir.text.subwords import learn_subwords

NAMES = "a.en", "a.fr"


def streams(*texts):
    return [io.BytesIO(text) for text in texts]


def test_both_texts_are_read_in_step_whatever_ends_the_last_line():
    count = LINES_AT_ONCE + 3
    source = b"".join(b"a%d\n" % n for n in range(count))
    target = b"".join(b"b%d\n" % n for n in range(count)).removesuffix(b"\n")
    pairs = [
        pair
        for lines in read_aligned(*streams(source, target), names=NAMES)
        for pair in clean_pairs(lines).pairs
    ]
    assert pairs == [(n, f"a{n}", f"b{n}") for n in range(count)]


def test_the_lengths_of_unequal_sides_are_told():
    texts = b"x\n" * (LINES_AT_ONCE + 5), b"y\n" * 7
    with pytest.raises(CorpusError, match=f"a.en has {LINES_AT_ONCE + 5} lines but a.fr has 7;"):
        list(read_aligned(*streams(*texts), names=NAMES))


def test_only_line_feeds_end_a_line_and_what_shows_nothing_is_dropped():
    source = "\ufeffone\u2028two\r\n\n\xa0\n\u200b\nok\n".encode() + b"\xff\n"
    target = b"un\ndeux\ntrois\nquatre\nbien\nx\n"
    (lines,) = read_aligned(*streams(source, target), names=NAMES)
    cleaned = clean_pairs(lines)
    assert cleaned.pairs == [(0, "one two", "un"), (4, "ok", "bien")]
    assert cleaned.num_read == 6 and cleaned.dropped == {"empty": 3, "not UTF-8": 1}


def test_limits_are_those_of_clean_corpus_n():
    limits = Limits(most=250, ratio=1.5)
    assert limits.keep(1, 1) and limits.keep(250, 250) and limits.keep(3, 2) and limits.keep(2, 3)
    assert not (limits.keep(251, 251) or limits.keep(31, 20) or limits.keep(0, 0))
    assert Limits().keep(1, 999) and not Limits().keep(1, 0)


def test_small_languages_give_all_and_the_others_share_the_rest():
    assert share_out([1000, 100, 3], 203) == [100, 100, 3]
    assert share_out([1000, 100], 5000) == [1000, 100]
    for seed in range(50):
        draw = random.Random(seed)
        available = [draw.randrange(1, 50) for _ in range(draw.randrange(1, 9))]
        size = draw.randrange(1, 200)
        shares = share_out(available, size)
        assert all(0 <= part <= most for part, most in zip(shares, available, strict=True))
        assert min(size, sum(available)) == sum(shares)


def test_a_sample_is_spread_over_all_files_and_always_the_same(tmp_path):
    texts = {}
    for language, sizes in {"en": (90, 10), "fr": (4,)}.items():
        texts[language] = []
        for part, size in enumerate(sizes):
            path = tmp_path / f"{part}.{language}"
            path.write_text("".join(f"{language} {part} {n}\n" for n in range(size)))
            texts[language].append(TextFile(path, size))
    drawn = list(sample_lines(texts, 24))
    assert drawn == list(sample_lines(texts, 24))
    assert Counter(line[:4] for line in drawn) == {"en 0": 18, "en 1": 2, "fr 0": 4}
    assert len(list(sample_lines(texts, 1000))) == 104


def test_a_line_of_many_pairs_is_drawn_once_for_its_language(tmp_path):
    for name, lines in ("a.en", "one\ntwo\none\n"), ("b.en", "one\nthree\n"), ("b.fr", "one\n"):
        (tmp_path / name).write_text(lines)
    english = [TextFile(tmp_path / "a.en", 3), TextFile(tmp_path / "b.en", 2)]
    drawn = list(sample_lines({"en": english, "fr": [TextFile(tmp_path / "b.fr", 1)]}, 100))
    assert drawn == ["one", "two", "three", "one"]


def test_rare_characters_are_left_to_unk():
    lines = ["a red ball and a dog"] * 200 + ["猫"]
    whole = learn_subwords(lines, vocab_size=60, character_coverage=1.0)
    common = learn_subwords(iter(lines), vocab_size=60, character_coverage=0.999)
    assert "猫" in "".join(whole.pieces) and "猫" not in "".join(common.pieces)
    assert common.encode(["a 猫"])[0].split()[-1] == "<unk>"
    with pytest.raises(CorpusError, match=r"--vocab-size \(5\)"):
        learn_subwords(lines, vocab_size=5, character_coverage=1.0)


def test_encoding_drops_what_breaks_the_limits_and_counts_the_rest(tmp_path):
    lines = ["a red ball", "a dog", "a red dog " * 20]
    subwords = learn_subwords(lines, vocab_size=30, character_coverage=1.0)
    subwords.save(tmp_path)
    text = TextPair(tmp_path / "a.en", tmp_path / "a.fr")
    for path in (text.source, text.target):
        path.write_text("".join(f"{line}\n" for line in lines))
    raw = TextPair(tmp_path / "raw.en", tmp_path / "raw.fr")
    pieces = TextPair(tmp_path / "pieces.en", tmp_path / "pieces.fr")
    read, kept, counts = encode_files(
        [text, text],
        corpus=tmp_path,
        limits=Limits(most=20),
        raw=raw,
        pieces=pieces,
    )
    assert (read, kept) == (6, 4)
    assert raw.source.read_text().splitlines() == lines[:2] * 2
    encoded = pieces.target.read_text().splitlines()
    assert [subwords.decode(line) for line in encoded] == lines[:2] * 2
    assert counts == Counter(" ".join(encoded * 2).split())
    write_counts(tmp_path / "counts", counts)
    assert read_counts(tmp_path / "counts") == counts


def test_a_pair_without_pieces_on_one_side_is_dropped(tmp_path):
    learn_subwords(["a b c"], vocab_size=30, character_coverage=1.0).save(tmp_path)
    encoded = encode_lines(tmp_path, Limits(), (["a", "b"], ["", "c"]))
    assert [kept[:2] for kept in encoded.kept] == [("b", "c")] and encoded.num_read == 2


@pytest.mark.parametrize(
    ("language", "line", "expected"),
    [
        ("fr", "«\xa0l’été\xa0» ,  10\xa0%", '"l\'été" , 10%'),
        ("fr", "20\xa0000 francs", "20,000 francs"),
        ("en", "“no…” – he\u200bsaid\x07", '"no..." - he said'),
    ],
)
def test_punctuation_is_normalised_as_moses_does(language, line, expected):
    assert moses_normaliser(language)(line) == expected
