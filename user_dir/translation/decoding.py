"""What goes into a search and what comes out; needs no torch, as the options do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from user_dir.text.pairs import Pair


@dataclass(frozen=True)
class Batch:
    """Lines of pieces to translate together.

    Args:
        direction: any that the model was trained on; None leaves it as it was.
        nbest: how many hypotheses for a line, at most the beam.
    """

    lines: Sequence[str]
    direction: Pair | None = None
    nbest: int = 1


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
class Hypothesis:
    """One translation of a line.

    `score` is the mean log-probability of a token, to base 2 and with the length penalty, as
    fairseq-generate prints it: higher is better.
    """

    text: str
    pieces: str
    score: float


@dataclass(frozen=True)
class Translation:
    """The hypotheses for one line, the best first: as many as asked for, or all that were found."""

    hypotheses: tuple[Hypothesis, ...]
    was_truncated: bool = False  # only the beginning of the line was translated

    @property
    def text(self) -> str:
        """The best hypothesis."""
        return self.hypotheses[0].text

    @property
    def score(self) -> float:
        """How likely the model finds it."""
        return self.hypotheses[0].score


NOTHING = Translation((Hypothesis("", "", 0.0),))  # of an empty line
