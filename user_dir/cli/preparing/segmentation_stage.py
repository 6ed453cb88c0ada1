"""The stage that finds out or learns how the text is cut into pieces."""

from collections.abc import Sequence

from user_dir.cli.preparing.large_plan import PairText, Plan
from user_dir.cli.preparing.prepared_folder import step
from user_dir.text.given_pieces import MARKERS, GivenPieces, detect_marker
from user_dir.text.large.resumable import Facts
from user_dir.text.sampling import TextFile, sample_lines
from user_dir.text.subwords import learn_subwords, read_model

# Of the training text's lines, to find out how its pieces are marked.
_LINES_LOOKED_AT = 100_000


def write_segmentation(plan: Plan, texts: Sequence[PairText]) -> Facts:
    """Write into the folder what cuts the text, or how its pieces join; see `Cutting`."""
    cutting = plan.cutting
    if cutting.model is not None:
        subwords = read_model(cutting.model, flag="--spm-model")
    elif cutting.pre_tokenized is not None:
        marker = cutting.pre_tokenized
        if marker not in MARKERS:
            lines = sample_lines(_by_language(texts), _LINES_LOOKED_AT)
            marker = detect_marker({piece for line in lines for piece in line.split()})
        GivenPieces(marker).save(plan.folder.out)
        step(f"  pieces of the training text are marked as by {marker} (fairseq's --post-process)")
        return {"marker": marker}
    else:
        subwords = learn_subwords(
            sample_lines(_by_language(texts), plan.given.input_sentence_size),
            vocab_size=plan.given.vocab_size,
            character_coverage=plan.given.character_coverage,
        )
    subwords.save(plan.folder.out)
    return {"pieces": len(subwords.pieces)}


def _by_language(texts: Sequence[PairText]) -> dict[str, list[TextFile]]:
    by_language: dict[str, list[TextFile]] = {}
    for text in texts:
        for part, lines in zip(text.parts["train"], text.train_lines, strict=True):
            for language, path in zip(text.pair.languages, part.files, strict=True):
                by_language.setdefault(language, []).append(TextFile(path, lines))
    return by_language
