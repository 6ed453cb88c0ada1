"""From options to all that a translator needs: checkpoint, directions, pieces."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_dir import register  # noqa: F401 - what checkpoints name is known
from user_dir.checkpoints.files import open_checkpoint, task_options
from user_dir.checkpoints.options.named_files import read_lines
from user_dir.errors import CorpusError, UserError
from user_dir.text.pairs import Pair, languages_of, parse_directions
from user_dir.text.segmentation import Segmentation, load_segmentation, segmentation_of_data
from user_dir.text.subwords import read_model
from user_dir.translation.data_languages import with_languages
from user_dir.translation.decoding import Decoding
from user_dir.translation.directions import Directions
from user_dir.translation.options import batch_limits, checkpoint_paths
from user_dir.translation.resolve import resolve
from user_dir.translation.setup import Setup


def load_setup(args: argparse.Namespace, *, corpus: Path | None = None) -> Setup:
    """What the options of `scomoe-translate` mean.

    Args:
        corpus: whose pieces are translated; without it those of the options.

    Raises:
        UserError: something is missing or contradicts; the message names the flag.
    """
    first = open_checkpoint(
        checkpoint_paths(args.path)[0],
        flag="--path",
        trusted=args.trust_checkpoint,
        only_options=True,  # `resolve` reads the rest
    )
    options = with_languages({**task_options(first), **args.model_overrides}, args.data)
    trained = _trained_directions(options)
    is_multilingual = options.get("lang_pairs") is not None
    decoding = resolve(_with_languages(args, trained) if is_multilingual else args)
    bilingual = None if is_multilingual else Pair(*_languages(decoding))
    lang_dict = decoding.overrides.get("lang_dict")
    directions = Directions(
        trained=(bilingual,) if bilingual else tuple(trained),
        languages=set(read_lines(Path(str(lang_dict)))) if lang_dict else {*languages_of(trained)},
        is_multilingual=is_multilingual,
        source=bilingual.source if bilingual else args.source_lang,
        target=bilingual.target if bilingual else args.target_lang,
    )
    return Setup(
        decoding=decoding,
        directions=directions,
        segmentation=_segmentation(args, decoding) if corpus is None else load_segmentation(corpus),
        limits=batch_limits(args),
    )


def _trained_directions(options: Mapping[str, Any]) -> list[Pair]:
    trained = options.get("lang_pairs") or "-".join(
        str(options.get(f"{side}_lang")) for side in ("source", "target")
    )
    if not isinstance(trained, str):
        trained = ",".join(trained)
    if os.path.isfile(trained):  # as --lang-pairs may name; a list may be too long for Path
        trained = Path(trained).read_text(encoding="utf-8").strip()
    return parse_directions(trained, flag="--path")


def _with_languages(args: argparse.Namespace, trained: list[Pair]) -> argparse.Namespace:
    """The options with languages to start with, where none are given: the models need some."""
    for one in trained:
        if args.source_lang in (None, one.source) and args.target_lang in (None, one.target):
            languages = {"source_lang": one.source, "target_lang": one.target}
            return argparse.Namespace(**{**vars(args), **languages})
    return args


def _languages(decoding: Decoding) -> list[str]:
    return [str(decoding.overrides[f"{side}_lang"]) for side in ("source", "target")]


def _segmentation(args: argparse.Namespace, decoding: Decoding) -> Segmentation | None:
    if args.pre_tokenized:
        return None
    try:
        if args.sentencepiece_model:
            return read_model(args.sentencepiece_model, flag="--sentencepiece-model")
        return segmentation_of_data(Path(decoding.data))
    except CorpusError as error:
        raise UserError(
            f"{error}; or name the model that the training text was cut with "
            "(--sentencepiece-model), or use --pre-tokenized for input in pieces"
        ) from None
