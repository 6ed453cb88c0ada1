"""A tokenizer of Hugging Face's that does what sentencepiece and fairseq's dictionary do.

The model's pieces keep the dictionary's ids. Needs the packages tokenizers and protobuf.
"""

from collections.abc import Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2  # kinds of models, by sentencepiece's numbers
_NORMAL, _USER_DEFINED = 1, 4  # kinds of pieces
_BOS, _PAD, _EOS, _UNK = "<s>", "<pad>", "</s>", "<unk>"
# Below the scores of all pieces: symbols that the model does not have are never chosen.
_FAR = 1000.0


class UnusualModelError(Exception):
    """A sentencepiece model that no such tokenizer can stand for; says why."""


def make_tokenizer(
    model: bytes, symbols: Sequence[str], *, languages: Sequence[str], before: str | None = None
) -> Tokenizer:
    """The tokenizer.

    Args:
        model: sentencepiece's, of BPE or unigrams.
        symbols: of fairseq's dictionary, by their ids.
        languages: symbols that are taken from text as they are.
        before: the symbol that a source begins with.

    Raises:
        UnusualModelError: it would not cut text in the same way.
    """
    protos: Any = sentencepiece_model_pb2  # which makes its classes when it is imported
    proto = protos.ModelProto.FromString(model)
    _check(proto, symbols)
    tokenizer = Tokenizer(_model(proto, symbols))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    special = [_BOS, _PAD, _EOS, _UNK, *languages]
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in special])
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    around = [one for one in (before, _EOS) if one is not None]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*around[:-1], "$A", _EOS]),
        special_tokens=[(one, ids[one]) for one in around],
    )
    return tokenizer


def _check(proto, symbols: Sequence[str]) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    missing = {piece.piece for piece in proto.pieces if piece.type == _NORMAL} - set(symbols)
    for is_so, why in (
        (trainer.model_type not in (_UNIGRAM, _BPE), "it is a model of words or characters"),
        (trainer.byte_fallback, "it cuts unknown characters into bytes"),
        (any(piece.type == _USER_DEFINED for piece in proto.pieces), "it has pieces of a user's"),
        (trainer.treat_whitespace_as_suffix, "its pieces end with spaces"),
        (
            not (
                normalizer.add_dummy_prefix
                and normalizer.remove_extra_whitespaces
                and normalizer.escape_whitespaces
            ),
            "it treats spaces in an unusual way",
        ),
        (missing, f'the dictionary lacks pieces of it, such as "{min(missing, default="")}"'),
    ):
        if is_so:
            raise UnusualModelError(why)


def _model(proto, symbols: Sequence[str]) -> models.Model:
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    if proto.trainer_spec.model_type == _UNIGRAM:
        far = min(scores.values()) - _FAR
        vocabulary = [(symbol, scores.get(symbol, far)) for symbol in symbols]
        return models.Unigram(vocabulary, unk_id=symbols.index(_UNK))
    return models.BPE(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=_merges(scores),
        unk_token=_UNK,
        fuse_unk=True,
    )


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, those first that sentencepiece would join first."""
    merges = [
        (-score, scores[piece[:cut]], (piece[:cut], piece[cut:]))
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [pair for *_, pair in sorted(merges)]


def _normalizer(spec) -> normalizers.Normalizer:
    steps = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(spec.precompiled_charsmap))
    return normalizers.Sequence(steps)
