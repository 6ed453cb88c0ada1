"""What is exported: a model, its dictionaries, its pieces, its languages."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig

from user_dir.errors import UserError
from user_dir.exporting.refusal import refuse
from user_dir.fast_moe.build import MoeParts
from user_dir.text.pairs import Pair
from user_dir.text.segmentation import Segmentation
from user_dir.translation.engine import load_models
from user_dir.translation.loading import load_setup
from user_dir.translation.options import (
    add_batching_options,
    add_model_options,
    add_search_options,
)


@dataclass(frozen=True)
class LanguageTokens:
    """The symbols that tell a multilingual model what to translate; None: it is told none there."""

    source: str | None  # before the source's first piece
    target: str | None  # the first of the translation, which is given


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, ready to be written for another program.

    Args:
        model: fairseq's `TransformerModel` or ours, in float32.
        longest: most tokens of a translation, the end of the sentence not counted.
        beam, length_penalty: of the search of `scomoe-translate`.
        tokens: of every direction that a multilingual model was trained on.
        direction: the one that is asked for, or the only one; None: any.
    """

    model: Any
    source: Dictionary
    target: Dictionary
    segmentation: Segmentation | None
    longest: int
    beam: int
    length_penalty: float
    tokens: Mapping[Pair, LanguageTokens]
    direction: Pair | None

    @property
    def cfg(self) -> TransformerConfig:
        """fairseq's options of the model."""
        return self.model.encoder.cfg

    @property
    def moe_parts(self) -> MoeParts | None:
        """What the mixtures share; None of a dense model."""
        return getattr(self.model, "moe_parts", None)

    @property
    def given_tokens(self) -> LanguageTokens:
        """Those of the direction; none of a bilingual model, nor where no direction is chosen."""
        if self.direction is None:
            return LanguageTokens(None, None)
        return self.tokens.get(self.direction, LanguageTokens(None, None))

    def language_symbols(self) -> list[str]:
        """All symbols of languages, in the order of the dictionary."""
        used = {one for tokens in self.tokens.values() for one in (tokens.source, tokens.target)}
        return sorted((one for one in used if one is not None), key=self.source.index)


def load(args: Namespace) -> Loaded:
    """Load the checkpoint that the options of `scomoe-export` name.

    Raises:
        UserError: it cannot be loaded, or is no Transformer of fairseq's.
    """
    try:
        setup = load_setup(_as_for_translation(args))
        (model, *_), task = load_models(setup.decoding)
    except UserError as error:  # the messages of a translation
        raise UserError(str(error).replace("--path", "CHECKPOINT")) from None
    check_kind(model)
    # What is written is read without a gradient.
    model.requires_grad_(False).eval()
    directions = setup.directions
    tokens = _language_tokens(task, directions.trained) if directions.is_multilingual else {}
    direction = directions.trained[0] if len(directions.trained) == 1 else None
    if args.source_lang is not None or args.target_lang is not None:
        direction = directions.pick(args.source_lang, args.target_lang)
        if tokens and direction not in tokens:
            tokens = {**tokens, **_language_tokens(task, [direction])}
    return Loaded(
        model=model,
        source=task.source_dictionary,
        target=task.target_dictionary,
        segmentation=setup.segmentation,
        longest=min(setup.decoding.max_len_b, model.max_decoder_positions() - 1),
        beam=setup.decoding.beam,
        length_penalty=setup.decoding.lenpen,
        tokens=tokens,
        direction=direction,
    )


def _as_for_translation(args: Namespace) -> Namespace:
    """The options of `scomoe-translate` with which it would load that checkpoint."""
    parser = ArgumentParser(add_help=False)
    for add_options in add_model_options, add_search_options, add_batching_options:
        add_options(parser)
    usual = parser.parse_args(["--path", str(args.checkpoint), "--cpu"])
    return Namespace(**{**vars(usual), **vars(args)})


def check_kind(model: Any) -> None:
    """Refuse a model that is no Transformer of fairseq's or ours.

    Raises:
        UserError: names its class.
    """
    of_model = type(model).__name__, type(model.encoder).__name__, type(model.decoder).__name__
    known = {"ScomoeEncoder", "TransformerEncoder", "TransformerEncoderBase"}
    if of_model[1] not in known or of_model[2].replace("Decoder", "Encoder") not in known:
        raise UserError(
            f"its architecture ({of_model[0]}) is not that of fairseq's transformer, which is all "
            "that can be exported"
        )


def _language_tokens(task: Any, directions: Iterable[Pair]) -> dict[Pair, LanguageTokens]:
    refuse(
        task.args.lang_tok_replacing_bos_eos,
        "--lang-tok-replacing-bos-eos",
        "there the beginning and the end of a sentence depend on its language, where other "
        "programs have one token for all; train with --encoder-langtok or --decoder-langtok",
    )
    manager, source, target = task.data_manager, task.source_dictionary, task.target_dictionary
    of_source, of_target = task.args.langtoks["main"]
    tokens = {}
    for pair in directions:
        # One encoder and one decoder serve all languages, so each has one dictionary.
        manager.dicts.setdefault(pair.source, source)
        manager.dicts.setdefault(pair.target, target)
        before = manager.get_encoder_langtok(*pair.languages, of_source)
        first = manager.get_decoder_langtok(pair.target, of_target)
        tokens[pair] = LanguageTokens(
            source=None if before is None else source[before],
            target=None if first is None else target[first],
        )
    return tokens
