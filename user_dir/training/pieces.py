"""How fairseq's commands join pieces, where the data folder tells and the user does not."""

from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.given_pieces import SENTENCEPIECE, GivenPieces
from user_dir.text.segmentation import segmentation_of_data


class PiecesOfData:
    """What fairseq takes for a BPE: it leaves input as it is and joins output."""

    def __init__(self, pieces: GivenPieces) -> None:
        self.pieces = pieces

    def encode(self, x: str) -> str:
        """Input is in pieces already."""
        return x

    def decode(self, x: str) -> str:
        """The text of some pieces, unless --post-process has joined them before."""
        is_joined = self.pieces.marker == SENTENCEPIECE and "▁" not in x
        return x if is_joined else self.pieces.decode(x)


def pieces_of_data(data: str) -> PiecesOfData | None:
    """Of a folder whose text came in pieces; None of one that tells of a sentencepiece model."""
    try:
        found = segmentation_of_data(Path(data))
    except CorpusError:
        return None
    return PiecesOfData(found) if isinstance(found, GivenPieces) else None
