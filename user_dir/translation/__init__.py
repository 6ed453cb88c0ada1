"""Translating with trained checkpoints; `Translator` is what programs use."""

from user_dir.translation.decoding import Hypothesis, Translation
from user_dir.translation.translator import Translator

__all__ = ["Hypothesis", "Translation", "Translator"]
