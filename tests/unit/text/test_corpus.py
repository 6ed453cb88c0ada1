import gzip

import pytest

from user_dir.errors import CorpusError
from user_dir.text.corpus import Corpus, write_language_lists, write_pieces, write_raw
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.multi30k import file_names, read_multi30k
from user_dir.text.subwords import learn_subwords

SIDES = {"en": ["a dog", "a cat"], "de": ["ein Hund", "eine Katze"], "fr": ["un chien", "un chat"]}


def small_corpus(text):
    directions = parse_directions(text)
    sides = {
        (split, Pair(*languages)): tuple(SIDES[language] for language in languages)
        for split in ("train", "valid", "test")
        for languages in (("en", "de"), ("en", "fr"))
    }
    return Corpus(directions=directions, texts=sides)


def test_raw_files_and_lists_have_the_names_that_fairseq_expects(tmp_path):
    corpus = small_corpus("en-de,de-en,en-fr")
    write_raw(corpus, tmp_path / "raw")
    write_language_lists(corpus, tmp_path)
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(
        f"{split}.{pair}.{language}"
        for split in ("train", "valid", "test")
        for pair in ("en-de", "en-fr")
        for language in pair.split("-")
    )
    assert (tmp_path / "raw" / "test.en-de.de").read_text() == "ein Hund\neine Katze\n"
    assert (tmp_path / "langs.txt").read_text() == "de\nen\nfr\n"
    assert (tmp_path / "pairs.txt").read_text() == "en-de,de-en,en-fr\n"


def test_training_text_holds_each_line_of_a_language_once_and_no_held_out_line():
    corpus = small_corpus("en-de,en-fr")
    corpus.texts["test", Pair("en", "de")] = (["unseen"], ["ungesehen"])
    assert sorted(corpus.training_text()) == sorted(
        line for lines in SIDES.values() for line in lines
    )


def test_the_dictionary_counts_training_only(tmp_path):
    corpus = small_corpus("en-de,en-fr")
    subwords = learn_subwords(corpus.training_text(), vocab_size=40)
    write_pieces(corpus, subwords, tmp_path / "pieces")
    lines = (tmp_path / "pieces" / "dict.txt").read_text(encoding="utf-8").splitlines()
    train = [path.read_text(encoding="utf-8") for path in (tmp_path / "pieces").glob("train.*")]
    assert sum(int(line.split(" ")[1]) for line in lines) == len(" ".join(train).split())


def test_a_line_of_which_the_subwords_leave_nothing_is_named(tmp_path):
    corpus = small_corpus("en-de,en-fr")
    subwords = learn_subwords(corpus.training_text(), vocab_size=40)
    corpus.texts["test", Pair("en", "fr")] = (["a dog", "a cat"], ["un chien", "\u2581"])
    with pytest.raises(CorpusError, match=r"test\.en-fr\.fr, line 2"):
        write_pieces(corpus, subwords, tmp_path / "pieces")


def test_multi30k_is_read_with_its_own_file_names(tmp_path):
    directions = parse_directions("de-en,en-de,en-fr")
    for name in file_names(directions):
        lines = [f"{name} {line}" for line in SIDES[name.split(".")[1]]]
        (tmp_path / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    corpus = read_multi30k(tmp_path, directions)
    german, english = corpus.texts["test", Pair("de", "en")]
    assert german[0] == "test_2016_flickr.de.gz ein Hund"
    assert english[1] == "test_2016_flickr.en.gz a cat"
    assert corpus.texts["valid", Pair("en", "fr")][1][1] == "val.fr.gz un chat"
    (tmp_path / "val.fr.gz").unlink()
    with pytest.raises(CorpusError, match=r"val\.fr\.gz: no such file"):
        read_multi30k(tmp_path, directions)
