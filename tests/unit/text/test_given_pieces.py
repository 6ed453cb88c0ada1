"""Text that comes in pieces: which marker it has, and how it is joined."""

from collections import Counter

import pytest

from user_dir.errors import CorpusError
from user_dir.text.given_pieces import GivenPieces, detect_marker, read_marker

EXAMPLES = {
    "subword_nmt": "the under@@ stand@@ ing of e@@ mails@@",
    "sentencepiece": "▁the ▁under stand ing ▁of ▁e mail s",
    "none": "the understanding of emails , @-@ e - mails",
}


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("subword_nmt", "the understanding of emails"),
        ("sentencepiece", "the understanding of emails"),
        ("none", EXAMPLES["none"]),
    ],
)
def test_a_marker_is_found_and_its_pieces_are_joined(marker, text, tmp_path):
    pieces = EXAMPLES[marker]
    assert detect_marker([*pieces.split(), *(f"w{n}" for n in range(40))]) == marker
    given = GivenPieces(marker)
    assert given.decode(pieces) == given.text_of(pieces) == text
    given.save(tmp_path)
    assert read_marker(tmp_path / "post-process.txt").marker == marker
    (tmp_path / "post-process.txt").write_text("bpe")
    with pytest.raises(CorpusError, match="must hold one of subword_nmt"):
        read_marker(tmp_path / "post-process.txt")


def test_what_means_something_to_fairseq_is_an_unknown_piece():
    given = GivenPieces("none")
    lines = ["<pad> a <s>", "b </s> <pad> c", "<unk> <d> a<s>"]
    assert given.encode(lines) == ["<unk> a <unk>", "b <unk> <unk> c", "<unk> <d> a<s>"]
    counts = Counter({"<unk>": 9, "b": 2, "a": 2, "c": 3})
    assert given.dictionary_lines(counts) == ["c 3", "a 2", "b 2"]
