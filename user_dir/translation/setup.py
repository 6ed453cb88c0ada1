"""Everything that a translator is made of, besides the models themselves."""

from dataclasses import dataclass

from user_dir.text.segmentation import Segmentation
from user_dir.translation.batching import BatchLimits
from user_dir.translation.decoding import Decoding
from user_dir.translation.directions import Directions


@dataclass(frozen=True)
class Setup:
    """What to translate with, in which directions, from which pieces, how much at a time.

    Args:
        segmentation: cuts lines into pieces and joins pieces; None: lines stay in pieces.
        limits: of the batches; also in how many processes they are translated.
    """

    decoding: Decoding
    directions: Directions
    segmentation: Segmentation | None
    limits: BatchLimits
