"""Write a trained model for another program: Hugging Face's transformers, or CTranslate2.

scomoe-export moe.pt --to hf --out moe-hf               NllbMoe, with safetensors
scomoe-export dense.pt --to ctranslate2 --out dense-ct2 models without mixtures

What the program would compute otherwise is refused, with the reason (docs/export.md).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from user_dir.cli.command import CommandParser, run_command
from user_dir.errors import UserError
from user_dir.text.whole_output import new_folder
from user_dir.translation.options import add_checkpoint_options

if TYPE_CHECKING:
    from user_dir.exporting.loaded import Loaded

COMMAND = "scomoe-export"
# What writes; they come with the package's extras of these names.
_PACKAGES = {
    "hf": ("google", "safetensors", "tokenizers"),  # google: of protobuf
    "ctranslate2": ("ctranslate2",),
}


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/export.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="of the model")
    add(
        "--to",
        required=True,
        choices=tuple(_PACKAGES),
        help="hf: NllbMoeForConditionalGeneration of transformers; ctranslate2: its Translator",
    )
    add("--out", type=Path, required=True, metavar="FOLDER", help="new folder to write")
    add_checkpoint_options(
        parser,
        of_languages="language of the {side}; of a multilingual checkpoint, the folder is made for "
        "these two (default: for all of its directions)",
        example="{'scomoe_inference_partition': 'everywhere'}",
    )
    subwords = parser.add_mutually_exclusive_group()
    subwords.add_argument(
        "--sentencepiece-model",
        type=Path,
        metavar="FILE",
        help="cuts text into the model's pieces (default: what the data folder was cut with)",
    )
    subwords.add_argument(
        "--pre-tokenized",
        action="store_true",
        help="write the vocabulary alone: who uses the model cuts text into its pieces",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    args = get_parser().parse_args(argv)
    return run_command(COMMAND, lambda: _export(args), debug=args.debug)


def _export(args: argparse.Namespace) -> None:
    if args.out.exists() or args.out.is_symlink():
        raise UserError(f"--out ({args.out}) exists; name another folder, or remove it")
    _check_packages(args.to)
    # Here, not at the top: --help and mistakes in the options need no torch.
    from user_dir import register  # noqa: F401 - what checkpoints name is known
    from user_dir.checkpoints.files import open_checkpoint
    from user_dir.exporting.loaded import load

    open_checkpoint(
        args.checkpoint, flag="CHECKPOINT", trusted=args.trust_checkpoint, only_options=True
    )
    loaded = load(args)
    with new_folder(args.out, overwrite=False) as folder:
        try:
            notes = _write(loaded, folder, to=args.to)
        except UserError as error:
            raise UserError(f"CHECKPOINT ({args.checkpoint}): {error}") from None
    print(f"wrote {args.out}")
    for note in notes:
        print(note)


def _check_packages(to: str) -> None:
    for name in _PACKAGES[to]:
        if find_spec(name) is None:
            raise UserError(
                f"--to {to} writes with packages that are not installed ({name}); install them "
                f"with: pip install 'scomoe[{to}]'"
            )


def _write(loaded: "Loaded", folder: Path, *, to: str) -> list[str]:
    """Write into the folder; returns what to tell the user."""
    notes = []
    if to == "hf":
        from user_dir.exporting.huggingface import write_huggingface

        why_not = write_huggingface(loaded, folder)
        if why_not:
            notes.append(f"without a tokenizer: {why_not}; vocab.json has the ids of the pieces")
    else:
        from user_dir.exporting.for_ctranslate2 import write_ctranslate2

        write_ctranslate2(loaded, folder)
    if loaded.tokens:
        directions = {
            str(pair): {"source": tokens.source, "target": tokens.target}
            for pair, tokens in loaded.tokens.items()
        }
        (folder / "directions.json").write_text(json.dumps(directions, indent=2) + "\n")
        notes.append(
            "directions.json has the token before a source and the first one of its translation, "
            "by direction"
        )
    return notes


if __name__ == "__main__":
    sys.exit(main())
