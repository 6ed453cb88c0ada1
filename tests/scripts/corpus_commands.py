"""What the tests of the prepare commands share: small corpora and a reader of prepared folders."""

import gzip
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SENTENCES = {
    "en": "a red dog runs in green grass while two young men watch it",
    "de": "ein roter Hund läuft im grünen Gras während zwei junge Männer zusehen dort",
    "fr": "un chien rouge court dans herbe verte pendant que deux jeunes hommes regardent",
}
SIZES = {"train": 40, "val": 6, "test_2016_flickr": 5}


def write_multi30k(folder: Path) -> Path:
    """A folder laid out as Multi30k's, with SIZES lines; line N is the same in all languages."""
    folder.mkdir(parents=True)
    for language, sentence in SENTENCES.items():
        words = sentence.split()
        for split, size in SIZES.items():
            lines = [" ".join(words[i % 5 : i % 7 + 6]) + f" {split} {i}" for i in range(size)]
            write_gzip(folder / f"{split}.{language}.gz", "".join(f"{line}\n" for line in lines))
    return folder


def write_gzip(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file below the folder by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_side(folder: Path, split: str, pair: str, language: str) -> list[str]:
    """The text of one binarised side, by fairseq's reader and the folder's own subwords."""
    import sentencepiece
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(folder / "bin" / f"dict.{language}.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    side = data_utils.load_indexed_dataset(
        str(folder / "bin" / f"{split}.{pair}.{language}"), dictionary
    )
    return [processor.decode(dictionary.string(side[i]).split(" ")) for i in range(len(side))]


def run_script(name: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run a script of preprocess_scripts and capture what it says."""
    return subprocess.run(
        ["bash", REPOSITORY / "preprocess_scripts" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
