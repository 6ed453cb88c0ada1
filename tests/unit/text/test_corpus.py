import gzip

import pytest

from user_dir.errors import CorpusError
from user_dir.text.corpus import write_language_lists
from user_dir.text.pairs import Pair, parse_directions
from user_dir.text.sources.multi30k import file_names, read_multi30k

SIDES = {"en": ["a dog", "a cat"], "de": ["ein Hund", "eine Katze"], "fr": ["un chien", "un chat"]}


def test_the_lists_have_the_names_that_our_commands_give_to_fairseq(tmp_path):
    write_language_lists(parse_directions("en-de,de-en,en-fr"), tmp_path)
    assert (tmp_path / "langs.txt").read_text() == "de\nen\nfr\n"
    assert (tmp_path / "pairs.txt").read_text() == "en-de,de-en,en-fr\n"


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
