"""Where sentences end, by punctuation, for aligned text in any language."""

import re
from collections.abc import Iterator

# Full-width marks end a sentence without a space after them.
_END = re.compile(r"(?:(?<=[。！？])(?![」』）])\s*|(?<=[.!?])[\"'”’»)\]]*(?P<space>\s+)(?=\S))")
_NO_END = re.compile(
    r"""(?:^|[\s(\["'„“«».])(?:
        [^\W\d_]\.?                      # an initial, or the last letter of "e.g." with its points
        |(?:[^\W\d_]\.\s?)+[^\W\d_]      # e.g, z.B, z. B, p.ej
        |\d+                             # 3. in lists and ordinals
        |approx|bl|bzw|ca|cf|ej|engl|ecc|eks|esp|etc|evtl|ex|fig|gem|inkl|incl|mm|mr|mrs|ms|nr|no|np
        |ok|pág|prof|sog|st|tj|tzv|usw|vgl|vol|vs|zzgl|dr|eds?|inc|ltd|jr|resp|тд|тп|напр|др
    )\.$""",
    re.VERBOSE | re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a paragraph; in doubt, such as after an abbreviation, they stay joined."""
    sentences = []
    start = 0
    for end in _END.finditer(text):
        before, after = text[start : end.start()], text[end.end() :]
        if not before or not after or (end["space"] and _goes_on(before, after)):
            continue
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    return [*sentences, text[start:]] if text[start:] else sentences


def align_sentences(one: str, other: str) -> Iterator[tuple[str, str]]:
    """The sentences of a paragraph and its translation; the whole if their number differs."""
    sides = split_sentences(one), split_sentences(other)
    yield from zip(*sides, strict=True) if len(sides[0]) == len(sides[1]) else [(one, other)]


def _goes_on(before: str, after: str) -> bool:
    return after[0].islower() or (before.endswith(".") and bool(_NO_END.search(before)))
