"""Moses' punctuation normalisation, and its removal of characters that print nothing."""

from collections.abc import Callable
from functools import cache

from user_dir.errors import CorpusError
from user_dir.text.lines import clean_line


@cache
def moses_normaliser(language: str) -> Callable[[str], str]:
    """A function that normalises a line as the WMT recipes do; needs the sacremoses package."""
    try:
        import regex  # type: ignore[import-untyped]
        from sacremoses import MosesPunctNormalizer  # type: ignore[import-untyped]
    except ImportError as error:
        raise CorpusError(
            f"punctuation is normalised by sacremoses, which is missing here ({error}); install "
            "it with: pip install sacremoses"
        ) from None
    normaliser = MosesPunctNormalizer(lang=language)
    unprintable = regex.compile(r"\p{C}")

    def normalise(line: str) -> str:
        return clean_line(unprintable.sub(" ", normaliser.normalize(line)))

    return normalise
