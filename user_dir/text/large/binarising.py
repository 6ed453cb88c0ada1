"""From pieces to what fairseq trains on: the files of fairseq-preprocess, byte for byte.

fairseq's own program waits for ever for one of its processes that was killed, and is slower.
"""

from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from user_dir.text.binarised import UNKNOWN, read_dictionary
from user_dir.text.binarised_files import type_of_ids, write_index
from user_dir.text.large.parallel_lines import LINES_AT_ONCE
from user_dir.text.large.worker_pool import map_in_order

_END = "</s>"


def binarise_text(text: Path, dictionary: Path, prefix: Path, *, workers: int = 1) -> None:
    """Write prefix.bin and prefix.idx: the ids of each line's pieces, and of the line's end.

    A piece that is not in the dictionary becomes <unk>.

    Args:
        text: lines of pieces with spaces between.
        workers: processes; the files do not depend on their number.
    """
    dtype = type_of_ids(len(read_dictionary(dictionary)))
    sizes = []
    look_up = partial(_ids_of, dictionary, dtype)
    with (
        prefix.with_name(f"{prefix.name}.bin").open("wb") as file,
        closing(map_in_order(look_up, _chunks(text), workers=workers)) as results,
    ):
        for ids, counts in results:
            file.write(ids.data)
            sizes.append(counts)
    all_sizes = np.concatenate(sizes) if sizes else np.empty(0, "<i4")
    write_index(prefix.with_name(f"{prefix.name}.idx"), all_sizes, dtype)


def _chunks(text: Path) -> Iterator[bytes]:
    with text.open("rb") as file:
        while lines := list(islice(file, LINES_AT_ONCE)):
            yield b"".join(lines)


def _ids_of(dictionary: Path, dtype: np.dtype, chunk: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The ids of some lines one after the other, and of each line how many."""
    ids_by_piece = _ids_by_piece(dictionary)
    unknown, end = ids_by_piece[UNKNOWN], ids_by_piece[_END]
    ids: list[int] = []
    sizes = []
    for line in chunk.decode("utf-8").removesuffix("\n").split("\n"):
        pieces = line.split()
        ids.extend(ids_by_piece.get(piece, unknown) for piece in pieces)
        ids.append(end)
        sizes.append(len(pieces) + 1)
    return np.array(ids, dtype), np.array(sizes, "<i4")


@cache
def _ids_by_piece(dictionary: Path) -> dict[str, int]:
    # Once a process: every call of a worker brings the path alone.
    return {piece: number for number, piece in enumerate(read_dictionary(dictionary))}
