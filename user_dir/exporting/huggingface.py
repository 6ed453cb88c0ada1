"""A folder that `from_pretrained` of Hugging Face's transformers loads."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from user_dir.exporting.loaded import Loaded
from user_dir.exporting.nllb_moe import check_fits, configuration, generation
from user_dir.exporting.nllb_moe_weights import nllb_moe_weights
from user_dir.exporting.tokenizer import UnusualModelError, make_tokenizer
from user_dir.text.subwords import Subwords

_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def write_huggingface(loaded: Loaded, folder: Path) -> str | None:
    """Write the model, its vocabulary and, if its pieces are sentencepiece's, its tokenizer.

    Returns:
        why there is no tokenizer; None if there is one.

    Raises:
        UserError: NllbMoe would compute something else; says which option is to blame.
    """
    check_fits(loaded)
    weights = nllb_moe_weights(dict(loaded.model.named_parameters()))
    _write(folder / "config.json", configuration(loaded))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors writes for the owner's eyes alone.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    _write(folder / "generation_config.json", generation(loaded))
    vocabulary = {symbol: index for index, symbol in enumerate(loaded.source.symbols)}
    _write(folder / "vocab.json", vocabulary)
    return _write_tokenizer(loaded, folder)


def _write_tokenizer(loaded: Loaded, folder: Path) -> str | None:
    if not isinstance(loaded.segmentation, Subwords):
        return "the text is in pieces already, which nothing here says how to cut"
    languages = loaded.language_symbols()
    try:
        tokenizer = make_tokenizer(
            loaded.segmentation.model,
            loaded.source.symbols,
            languages=languages,
            before=loaded.given_tokens.source,
        )
    except UnusualModelError as error:
        (folder / "spm.model").write_bytes(loaded.segmentation.model)
        return f"sentencepiece's model cannot be expressed as one of transformers' ({error})"
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **_SPECIAL,
            "additional_special_tokens": languages,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": loaded.cfg.max_source_positions,
        },
    )
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
