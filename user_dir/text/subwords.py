"""Joint sentencepiece BPE, and the fairseq dictionary that belongs to it."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from user_dir.errors import CorpusError, UserError
from user_dir.text.lines import write_lines

# Pieces that fairseq's Dictionary has of its own, in whatever dictionary file.
FAIRSEQ_SYMBOLS = frozenset({"<unk>", "<s>", "</s>", "<pad>"})


class Subwords:
    """A trained sentencepiece model that turns lines into lines of pieces and counts them."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._processor.get_piece_size()
        self.pieces = [self._processor.id_to_piece(index) for index in range(size)]

    def encode(self, lines: Sequence[str]) -> list[str]:
        """Each line as pieces with spaces between; an unknown character gives <unk>."""
        return [
            " ".join(self.pieces[index] for index in ids)
            for ids in self._processor.encode(list(lines))
        ]

    def decode(self, encoded: str) -> str:
        """The text of a line of pieces."""
        return self._processor.decode(encoded.split(" "))

    def text_of(self, line: str) -> str:
        """A line of the corpus as it is scored."""
        return line

    def save(self, folder: Path) -> None:
        """Write spm.model and spm.vocab, the latter as sentencepiece's own trainer does."""
        (folder / "spm.model").write_bytes(self.model)
        scores = map(self._processor.get_score, range(len(self.pieces)))
        write_lines(
            folder / "spm.vocab",
            [f"{piece}\t{score:g}" for piece, score in zip(self.pieces, scores, strict=True)],
        )

    def dictionary_lines(self, train_counts: Counter[str]) -> list[str]:
        """fairseq's dictionary: every piece and its count in training, most frequent first.

        Unused pieces stay (count 0): held-out text may be cut into them.
        """
        pieces = [piece for piece in self.pieces if piece not in FAIRSEQ_SYMBOLS]
        pieces.sort(key=lambda piece: -train_counts[piece])  # stable: ties in the model's order
        return [f"{piece} {train_counts[piece]}" for piece in pieces]


def read_model(path: Path, *, flag: str) -> Subwords:
    """A sentencepiece model from its file; `UserError`, naming the flag, if it is none."""
    try:
        return Subwords(path.read_bytes())
    except OSError as error:
        raise UserError(f"{flag} ({path}): cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise UserError(f"{flag} ({path}): not a sentencepiece model") from None


def learn_subwords(
    lines: Iterable[str], *, vocab_size: int, character_coverage: float = 1.0
) -> Subwords:
    """BPE of at most `vocab_size` pieces, four of them special, learned from the lines.

    Deterministic. Fewer pieces come out where the text does not yield that many.
    `character_coverage` is the share of the text's characters that pieces cover; the rest,
    the rarest, become <unk>.

    Raises:
        CorpusError: `vocab_size` cannot hold the characters, or sentencepiece fails otherwise.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            max_sentence_length=1 << 16,
            # Reserved, so that a "<pad>" in some text never becomes fairseq's padding.
            pad_id=3,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _learning_error(error, vocab_size, character_coverage) from None
    return Subwords(model.getvalue())


def _learning_error(error: RuntimeError, vocab_size: int, coverage: float) -> CorpusError:
    # "Vocabulary size is smaller than required_chars. 5 vs 14." The second holds every character.
    if found := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
        rarer = f", or less --character-coverage than {coverage:g}" if coverage < 1 else ""
        return CorpusError(
            f"--vocab-size ({vocab_size}) is too small for the characters of the training text; "
            f"{found[1]} is the least that holds them, a few thousand is usual{rarer}"
        )
    reason = " ".join(str(error).split()) or "no reason given"
    return CorpusError(f"sentencepiece could not learn from the training text: {reason}")
