"""What goes into a search and what comes out; needs no torch, as the options do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class Batch:
    """Lines of pieces to translate together.

    The direction may be any that the model was trained on; None leaves it as it was.
    """

    lines: Sequence[str]
    direction: Pair | None = None


@dataclass(frozen=True)
class Decoding:
    """What to translate with, resolved: a worker process needs nothing else."""

    paths: tuple[str, ...]
    data: str
    overrides: Mapping[str, object]
    beam: int
    lenpen: float
    max_len_a: float
    max_len_b: int
    dtype: str  # torch's name of it
    on_cpu: bool
    # Each process holds a share of the experts, and all take every step together; otherwise each
    # has the whole model.
    spread_experts: bool = False


@dataclass(frozen=True)
class Translation:
    """The best hypothesis for one line."""

    pieces: str
    was_truncated: bool
