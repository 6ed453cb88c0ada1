"""Hugging Face's tokenizer of an exported model against sentencepiece and fairseq's dictionary."""

import io

import pytest
import sentencepiece
from fairseq.data import Dictionary

from tests.support.commands import ROOT
from user_dir.text.subwords import Subwords, learn_subwords

pytest.importorskip("tokenizers")

from user_dir.exporting.tokenizer import UnusualModelError, make_tokenizer

# Real text, of more than letters.
LINES = [
    line
    for page in ("training", "scomoe", "gates", "results")
    for line in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
]
ODD = [
    "",
    "  two  spaces,\tand a tab  ",
    "ﬁne ﬂight Ⅳ ｆｕｌｌ",  # letters that sentencepiece's rules write otherwise
    "数 字 and é e\u0301 aaaa aaaaa aaaaaaa",
    "unknown: 🙂🙂 ☃x☃",
]


def learn(kind: str, **options) -> Subwords:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type=kind,
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return Subwords(model.getvalue())


def dictionary_of(subwords: Subwords, *languages: str) -> Dictionary:
    dictionary = Dictionary()
    for line in subwords.dictionary_lines({piece: 1 for piece in subwords.pieces}):
        dictionary.add_symbol(line.split(" ")[0])
    for language in languages:
        dictionary.add_symbol(language)
    return dictionary


def ours(subwords: Subwords, dictionary: Dictionary, lines: list[str]) -> list[list[int]]:
    return [
        dictionary.encode_line(line, add_if_not_exist=False).tolist()
        for line in subwords.encode(lines)
    ]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_text_is_cut_into_the_ids_that_the_model_was_trained_with(kind: str) -> None:
    subwords = learn_subwords(LINES, vocab_size=600) if kind == "bpe" else learn(kind)
    dictionary = dictionary_of(subwords)
    tokenizer = make_tokenizer(subwords.model, dictionary.symbols, languages=[])
    lines = [*LINES, *ODD]
    found = [one.ids for one in tokenizer.encode_batch(lines)]
    assert found == ours(subwords, dictionary, lines)


def test_pieces_are_joined_as_sentencepiece_joins_them() -> None:
    subwords = learn_subwords(LINES, vocab_size=600)
    dictionary = dictionary_of(subwords)
    tokenizer = make_tokenizer(subwords.model, dictionary.symbols, languages=[])
    encoded = subwords.encode([line for line in LINES if line])
    known = [line for line in encoded if "<unk>" not in line]
    assert len(known) > 100
    ids = [dictionary.encode_line(line, add_if_not_exist=False).tolist() for line in known]
    assert tokenizer.decode_batch(ids) == [subwords.decode(line) for line in known]


def test_a_language_is_taken_from_the_text_or_put_before_it() -> None:
    subwords = learn_subwords(LINES, vocab_size=600)
    dictionary = dictionary_of(subwords, "__de__", "__en__")
    languages = ["__de__", "__en__"]
    line = LINES[10]
    expected = [dictionary.index("__de__"), *ours(subwords, dictionary, [line])[0]]
    plain = make_tokenizer(subwords.model, dictionary.symbols, languages=languages)
    assert plain.encode(f"__de__ {line}").ids == expected
    told = make_tokenizer(subwords.model, dictionary.symbols, languages=languages, before="__de__")
    assert told.encode(line).ids == expected


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("word", {}, "words or characters"),
        ("bpe", {"byte_fallback": True}, "bytes"),
        ("bpe", {"user_defined_symbols": ["<x>"]}, "of a user's"),
        ("bpe", {"treat_whitespace_as_suffix": True}, "end with spaces"),
        ("bpe", {"add_dummy_prefix": False}, "spaces in an unusual way"),
    ],
)
def test_models_that_cut_in_another_way_are_told(kind: str, options: dict, why: str) -> None:
    subwords = learn(kind, **options)
    with pytest.raises(UnusualModelError, match=why):
        make_tokenizer(subwords.model, dictionary_of(subwords).symbols, languages=[])


def test_a_dictionary_without_some_pieces_is_told() -> None:
    subwords = learn_subwords(LINES, vocab_size=600)
    symbols = dictionary_of(subwords).symbols
    with pytest.raises(UnusualModelError, match=f'such as "{symbols[-1]}"'):
        make_tokenizer(subwords.model, symbols[:-1], languages=[])
