"""One token for a language pair in front of the source, instead of one language's."""

from collections.abc import Iterable

from fairseq.data import Dictionary
from fairseq.data.multilingual.multilingual_data_manager import MultilingualDatasetManager

from user_dir.errors import UserError


def pair_token(source: str, target: str) -> str:
    """The symbol of a direction, in the style of fairseq's tokens of languages."""
    return f"__{source}-{target}__"


def add_pair_tokens(dictionaries: Iterable[Dictionary], lang_pairs: Iterable[str]) -> None:
    """Add the symbols of all directions, in an order that depends on their names alone."""
    pairs = sorted(set(lang_pairs))
    for dictionary in dictionaries:
        for pair in pairs:
            dictionary.add_symbol(pair_token(*pair.split("-")))


class PairTokenManager(MultilingualDatasetManager):
    """fairseq's manager of multilingual data, with the pair's token wherever it prepends one."""

    def get_encoder_langtok(self, src_lang, tgt_lang, spec=None):
        """The index of the direction's token; None where none is wanted."""
        if spec is None or src_lang is None or tgt_lang is None:
            return super().get_encoder_langtok(src_lang, tgt_lang, spec)
        dictionary = self.get_source_dictionary(src_lang)
        token = pair_token(src_lang, tgt_lang)
        if token not in dictionary:
            raise UserError(
                f"{src_lang}-{tgt_lang} was not among --lang-pairs in training, so "
                "--encoder-lang-pair-token has no token for it"
            )
        return dictionary.index(token)
