"""Joint subwords from a sample of a corpus that is too large to learn from as a whole."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from user_dir.errors import CorpusError
from user_dir.text.subwords import Subwords


@dataclass(frozen=True)
class TextFile:
    """A file of cleaned lines and how many they are."""

    path: Path
    num_lines: int


def share_out(available: Mapping[str, int], size: int) -> dict[str, int]:
    """How many lines each language gives to a sample of `size`: the same from each if it can.

    What small languages cannot give, the others give in equal parts.
    """
    shares: dict[str, int] = {}
    for done, language in enumerate(sorted(available, key=lambda one: (available[one], one))):
        equal = (size - sum(shares.values())) // (len(available) - done)
        shares[language] = min(available[language], equal)
    return shares


def sample(texts: Mapping[str, Sequence[TextFile]], size: int) -> Iterator[str]:
    """About `size` lines, evenly spaced over each language's files: always the same ones."""
    available = {name: sum(file.num_lines for file in files) for name, files in texts.items()}
    for language, share in sorted(share_out(available, size).items()):
        total, number = available[language], 0
        for file in texts[language]:
            with file.path.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    if (number + 1) * share // total > number * share // total:
                        yield line.removesuffix("\n")
                    number += 1


def learn_subwords(lines: Iterable[str], *, vocab_size: int, character_coverage: float) -> Subwords:
    """BPE of at most `vocab_size` pieces, four of them special; rare characters become <unk>.

    Deterministic. Raises `CorpusError` if sentencepiece cannot learn from the lines.
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
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
        raise CorpusError(
            f"--vocab-size ({vocab_size}), --character-coverage ({character_coverage}): "
            f"sentencepiece could not learn from the training text ({reason}); more pieces or "
            "less coverage may do"
        ) from None
    return Subwords(model.getvalue())
