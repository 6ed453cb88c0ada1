import pytest

from user_dir.errors import CorpusError
from user_dir.text.pairs import Pair, languages_of, parse_directions, stored_pairs


def test_both_directions_of_a_pair_are_stored_once_in_the_order_given_first():
    directions = parse_directions("de-en,en-de, en-fr")
    assert directions == [Pair("de", "en"), Pair("en", "de"), Pair("en", "fr")]
    assert stored_pairs(directions) == [Pair("de", "en"), Pair("en", "fr")]
    assert languages_of(directions) == ["de", "en", "fr"]


@pytest.mark.parametrize("text", ["", "en", "en-de-fr", "en-", "en-de,", "en-../x", "en-de,en-de"])
def test_a_bad_pair_is_named(text):
    with pytest.raises(CorpusError, match="--pair"):
        parse_directions(text)


def test_a_pair_of_one_language_is_refused():
    with pytest.raises(CorpusError, match="two different languages"):
        parse_directions("en-en")
