"""The lines to translate: reading them, batching them by length, putting results in order."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from user_dir.errors import UserError
from user_dir.text.lines import clean_line

# With several processes, this many batches each: they finish at about the same time.
_BATCHES_PER_PROCESS = 4


def read_sentences(path: Path | None) -> list[str]:
    """The cleaned lines of a UTF-8 file, of standard input if None; empty ones stay.

    Only a line feed ends a line; other white space is one space, as in the training text.

    Raises:
        UserError: a missing file, or bytes that are no UTF-8, by file and line.
    """
    if path is None:
        if sys.stdin.isatty():
            print("reading from the terminal; end with Ctrl-D", file=sys.stderr)
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(path), _read_bytes(path)
    raw_lines = data.split(b"\n")
    if raw_lines[-1] == b"":  # what follows the last line's end is not a line
        raw_lines.pop()
    return [_decode(raw, name, number) for number, raw in enumerate(raw_lines, start=1)]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--input ({path}): cannot be read ({error.strerror})") from None


def _decode(raw: bytes, name: str, number: int) -> str:
    try:
        # A byte order mark at the start of a file is no part of its first sentence.
        return clean_line(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {number}: not valid UTF-8 (byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1} of the line); convert it, for example with iconv -t UTF-8"
        ) from None


def make_batches(
    lines: Sequence[str],
    *,
    max_tokens: int,
    batch_size: int | None = None,
    equal_lengths: bool = False,
    processes: int = 1,
) -> list[list[int]]:
    """The indices of the lines that are not empty, in batches of similar length, longest first.

    Args:
        lines: pieces with spaces between.
        max_tokens: of a batch, padding and ends of sentences included; a longer line is alone.
        batch_size: most lines of a batch.
        equal_lengths: whether the lines of a batch must all have the same number of pieces.
        processes: how many share the batches.
    """
    lengths = {index: line.count(" ") + 2 for index, line in enumerate(lines) if line}
    if processes > 1:
        share = sum(lengths.values()) // (processes * _BATCHES_PER_PROCESS)
        max_tokens = min(max_tokens, share)
    batches: list[list[int]] = []
    for index in sorted(lengths, key=lambda index: -lengths[index]):
        if not batches or _is_full(
            batches[-1], lengths[index], lengths, max_tokens, batch_size, equal_lengths
        ):
            batches.append([])
        batches[-1].append(index)
    return batches


def _is_full(
    batch: list[int],
    length: int,
    lengths: Mapping[int, int],
    max_tokens: int,
    batch_size: int | None,
    equal_lengths: bool,
) -> bool:
    longest = lengths[batch[0]]
    return (
        (len(batch) + 1) * longest > max_tokens
        or len(batch) == batch_size
        or (equal_lengths and length != longest)
    )


def in_order(translations: Mapping[int, str], lines: Sequence[str]) -> list[str]:
    """A translation for every line; empty for an empty one.

    Raises:
        UserError: a translation is missing.
    """
    missing = [index + 1 for index, line in enumerate(lines) if line and index not in translations]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(lines)} lines have no translation, the first of them is line "
            f"{missing[0]}; nothing was written. Please report this"
        )
    return [translations.get(index, "") for index in range(len(lines))]
