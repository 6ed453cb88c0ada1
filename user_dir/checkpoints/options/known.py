"""The parts of fairseq that a checkpoint may name as it is: those that translate."""

MODELS = frozenset(
    {"scomoe", "transformer", "transformer_align", "multilingual_transformer"}
    | {"lightconv", "lstm", "fconv"}
)
TASKS = frozenset(
    {"scomoe_translation", "scomoe_multilingual_translation"}
    | {"translation", "translation_multi_simple_epoch", "multilingual_translation"}
)
CRITERIA = frozenset(
    {"moe_cross_entropy", "cross_entropy", "adaptive_loss", "label_smoothed_cross_entropy"}
    | {"label_smoothed_cross_entropy_with_alignment"}
)
