"""How the text of a corpus is cut into pieces, as its folder tells."""

from functools import cache
from pathlib import Path

from user_dir.errors import CorpusError
from user_dir.text.binarised import is_binarised, read_dictionary
from user_dir.text.given_pieces import FILE_NAME, GivenPieces, detect_marker, read_marker
from user_dir.text.subwords import Subwords

Segmentation = Subwords | GivenPieces
MODEL_NAME = "spm.model"


def load_segmentation(corpus: Path) -> Segmentation:
    """What a prepared folder was cut with, or how the pieces of fairseq's own folder join.

    Raises `CorpusError` if neither is to be found.
    """
    model, marker = corpus / MODEL_NAME, corpus / FILE_NAME
    if marker.is_file():
        return read_marker(marker)
    if not model.exists() and is_binarised(corpus):
        return GivenPieces(_marker_of(corpus))
    try:
        return Subwords(model.read_bytes())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no sentencepiece model"
        raise CorpusError(f"{model} cannot be read ({reason}); prepare the corpus again") from None


def segmentation_of_data(data: Path) -> Segmentation:
    """What the text was cut with that a folder of binarised data was made from.

    A prepared folder has the data in its `bin`; fairseq's own has nothing beside it.
    """
    data = data.resolve()
    beside = data.parent
    is_prepared = any((beside / name).exists() for name in ("raw", MODEL_NAME, FILE_NAME))
    return load_segmentation(beside if is_prepared else data)


@cache  # the test sets of a hundred directions ask for it, each several times
def _marker_of(folder: Path) -> str:
    dictionaries = map(read_dictionary, folder.glob("dict.*.txt"))
    return detect_marker({piece for pieces in dictionaries for piece in pieces})
