"""The languages of a data folder, for checkpoints that do not name theirs."""

import os
import re
from collections.abc import Mapping
from typing import Any

# The second part of the names that fairseq-preprocess gives, such as train.en-de.en.idx.
_PAIR = re.compile(r"[^.]+\.([^.-]+-[^.-]+)\.[^.]+\.idx")


def with_languages(options: Mapping[str, Any], data: str | None) -> dict[str, Any]:
    """The options of a checkpoint's task; with the languages of its data where it names none.

    fairseq takes the languages of a bilingual model from the data folder where training is not told
    them, and does not save them.

    Args:
        data: the folder that the checkpoint's own gives way to if that has gone.
    """
    languages = {name: options.get(name) for name in ("source_lang", "target_lang")}
    if options.get("lang_pairs") is None and not all(languages.values()):
        for folder in (options.get("data") or "").split(":")[0], data:
            if folder and os.path.isdir(folder):
                pairs = {found[1] for name in os.listdir(folder) if (found := _PAIR.match(name))}
                if len(pairs) == 1:
                    languages = dict(zip(languages, pairs.pop().split("-"), strict=True))
                break
    return {**options, **languages}
