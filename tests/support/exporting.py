"""Small models as `scomoe-export` has them once they are loaded."""

from tests.support.models import DICTIONARY, SMALL, build_model
from user_dir.exporting.loaded import Loaded, check_kind

# What NllbMoe asks of a model.
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
FITTING = {**SMALL, **PRE_NORM, "share_all_embeddings": True}
# fairseq's own model, small; of stock names and no option of ours.
STOCK = {"arch": "transformer", "encoder_layers": 2, "decoder_layers": 2}


def loaded_model(**options) -> Loaded:
    """A model of random weights with the given options, without a corpus."""
    model = build_model(**options)
    check_kind(model)
    model.requires_grad_(False).eval()
    return Loaded(
        model=model,
        source=DICTIONARY,
        target=DICTIONARY,
        segmentation=None,
        longest=200,
        beam=5,
        length_penalty=1.0,
        tokens={},
        direction=None,
    )
