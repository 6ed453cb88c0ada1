"""Reading and aligning package descriptions, against files as Debian writes them."""

import pytest

from user_dir.text.sources.debian_text import align, read_descriptions
from user_dir.text.sources.sentences import split_sentences

ENGLISH = """Package: apples
Description-md5: 1
Description-en: counts apples
 This tool counts apples.  It is
 quick, e.g. with trees.
 .
 Features:
  * counts fruit
    of all sorts
  * sorts it
 .
 It has no pears.

Package: pears
Description-md5: 2
Description-en: counts pears
 One. Two.
"""
GERMAN = """Package: apples
Description-md5: 1
Description-de: zählt Äpfel
 Dieses Werkzeug zählt Äpfel. Es ist
 schnell, z. B. mit Bäumen.
 .
 Funktionen:
  – zählt Obst
    aller Art
  – sortiert es
 .
 Es hat
 keine Birnen.

Package: pears
Description-md5: 2
Description-de: counts pears
 Eins. Zwei.
 .
 Drei.

Package: unknown
Description-md5: 3
Description-de: fehlt im Englischen
 Nichts.
"""


def read(text, language):
    return list(read_descriptions(text.splitlines(keepends=True), language))


def aligned(english, other, language="de"):
    pairs = align({one.md5: one for one in read(english, "en")}, read(other, language))
    return [(pair.english, pair.translation) for pair in pairs]


def test_titles_sentences_and_items_are_aligned():
    assert aligned(ENGLISH, GERMAN) == [
        ("counts apples", "zählt Äpfel"),
        ("This tool counts apples.", "Dieses Werkzeug zählt Äpfel."),
        ("It is quick, e.g. with trees.", "Es ist schnell, z. B. mit Bäumen."),
        ("Features:", "Funktionen:"),
        ("counts fruit of all sorts", "zählt Obst aller Art"),
        ("sorts it", "sortiert es"),
        ("It has no pears.", "Es hat keine Birnen."),
        # The second: an untranslated title, and a paragraph too many.
    ]


def test_a_paragraph_with_another_number_of_sentences_stays_whole():
    english = "Description-md5: 1\nDescription-en: a title\n One. Two.\n"
    german = "Description-md5: 1\nDescription-de: ein Titel\n Eins, und zwei.\n"
    assert aligned(english, german)[1:] == [("One. Two.", "Eins, und zwei.")]


def test_wrapped_lines_have_a_space_between_them_but_not_in_japanese():
    japanese = "Description-md5: 1\nDescription-ja: 題\n これは\n 表題です。Debian の\n 道具。\n"
    assert read(japanese, "ja")[0].blocks == [["これは表題です。Debian の道具。"]]


def test_a_field_of_another_language_is_passed_over():
    assert read(GERMAN, "fr") == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "go." Then he went.', ['He said "go."', "Then he went."]),
        ("See e.g. Vim, version 3. Or not.", ["See e.g. Vim, version 3. Or not."]),
        ("a file.txt and so on. and on", ["a file.txt and so on. and on"]),
        ("一つ。二つ！三つ", ["一つ。", "二つ！", "三つ"]),
        ("「一つ。」二つ。", ["「一つ。」二つ。"]),
    ],
)
def test_sentences_end_where_punctuation_is_sure(text, sentences):
    assert split_sentences(text) == sentences
