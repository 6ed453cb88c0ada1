"""Samples to which every language, or every length, gives as evenly as it can."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from user_dir.text.lines import written_lines


@dataclass(frozen=True)
class TextFile:
    """A file of cleaned lines and how many they are."""

    path: Path
    num_lines: int


def share_out(available: Sequence[int], total: int) -> list[int]:
    """Parts of `total` as equal as the `available` amounts allow; less if they do not suffice.

    What the small ones cannot give, the others give in equal parts.
    """
    parts = [0] * len(available)
    smallest_first = sorted(range(len(available)), key=lambda index: available[index])
    for position, index in enumerate(smallest_first):
        parts[index] = min(available[index], total // (len(available) - position))
        total -= parts[index]
    return parts


def sample_lines(texts: Mapping[str, Sequence[TextFile]], size: int) -> Iterator[str]:
    """About `size` lines, evenly spaced over each language's files: always the same ones.

    Each distinct line of a language comes once: one with many partners, whose lines are in the
    text of them all, would otherwise outweigh the others.
    """
    languages = sorted(texts)
    available = [sum(file.num_lines for file in texts[language]) for language in languages]
    shares = share_out(available, size)
    for language, total, share in zip(languages, available, shares, strict=True):
        number = 0
        seen: set[int] = set()
        for file in texts[language]:
            for line in written_lines(file.path):
                if (number + 1) * share // total > number * share // total:
                    key = hash(line)  # the lines themselves would take more memory
                    if key not in seen:
                        seen.add(key)
                        yield line
                number += 1
