"""Small models as `scomoe-export` has them once they are loaded."""

from tests.support.models import DICTIONARY, SMALL, build_model
from user_dir.exporting.loaded import Loaded

# What NllbMoe asks of a model.
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
FITTING = {**SMALL, **PRE_NORM, "share_all_embeddings": True}


def loaded_model(**options) -> Loaded:
    """A model of random weights with the given options, without a corpus."""
    model = build_model(**options)
    model.requires_grad_(False).eval()
    return Loaded(
        model=model,
        source=DICTIONARY,
        target=DICTIONARY,
        segmentation=None,
        longest=200,
        tokens={},
        direction=None,
    )
