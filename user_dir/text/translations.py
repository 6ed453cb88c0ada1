"""A folder of translations and the references of a prepared corpus, direction by direction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from user_dir.text.corpus import side_name
from user_dir.text.lines import CorpusError, read_lines, read_lines_or_empty, read_parallel
from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class Translated:
    """Source, reference and translation of one direction, line by line."""

    direction: Pair
    sources: list[str]
    references: list[str]
    translations: list[str]
