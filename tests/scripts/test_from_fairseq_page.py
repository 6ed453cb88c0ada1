"""docs/from-fairseq.md: its commands, run as they stand there, at small size."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.scripts.test_own_text_page import install_commands
from tests.scripts.test_prepare import sentences, write
from tests.support.commands import ROOT, environment, run

COMMANDS = re.findall(
    r"```bash\n(.*?)```", (ROOT / "docs" / "from-fairseq.md").read_text(encoding="utf-8"), re.DOTALL
)
SIZES = "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 "
SIZES += "--encoder-layers 2 --decoder-layers 2 --max-update 2 --num-workers 0 --cpu"
HYDRA = "common.cpu=true optimization.max_update=2 dataset.num_workers=0 "
HYDRA += "+model.encoder_embed_dim=16 +model.encoder_ffn_embed_dim=16"


def smaller(command: str) -> str:
    """The command, with sizes that train in a moment."""
    command = command.strip()
    if command.startswith("fairseq-hydra-train"):
        return (
            command.replace("$PWD/user_dir", str(ROOT / "user_dir")).replace(
                "$PWD/train_scripts", str(ROOT / "train_scripts")
            )
            + f" {HYDRA}"
        )
    command = command.replace("--user-dir user_dir", f"--user-dir {ROOT / 'user_dir'}")
    command = command.replace("--max-epoch 10", SIZES).replace("--beam 5", "--beam 1 --cpu")
    return command.replace("--input", "--cpu --beam 1 --max-len-b 20 --input")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus in pieces, binarised by fairseq-preprocess."""
    here = tmp_path_factory.mktemp("from_fairseq")
    for split, lines in ("train", 120), ("valid", 8), ("test", 6):
        for language in "en", "de":
            pieces = [
                re.sub(r"(\w{4})(?=\w)", r"\1@@ ", line) for line in sentences(language, lines)
            ]
            write(here / f"{split}.{language}", pieces)
    preprocess = ["fairseq-preprocess", "--source-lang", "en", "--target-lang", "de"]
    preprocess += [f"--{split}pref={here / split}" for split in ("train", "valid", "test")]
    run([*preprocess, "--joined-dictionary", "--destdir", here / "data-bin"])
    (here / "pieces.en").write_text((here / "test.en").read_text())
    install_commands(here / "commands")
    return here


def execute(command: str, folder: Path) -> str:
    variables = environment()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", smaller(command)],
        cwd=folder,
        env={**variables, "PATH": f"{folder / 'commands'}:{variables['PATH']}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_page_work_one_after_the_other(folder):
    dense, moe, several, generate, translate, stock, hydra = COMMANDS
    execute(dense, folder)
    execute(translate, folder)
    text = (folder / "text.de").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 6
    assert "@@" not in text
    execute(moe, folder)
    for command in stock, generate:
        assert len(re.findall(r"^H-\d", execute(command, folder), re.MULTILINE)) == 6
    assert "layout: 1 nodes x 2 ranks" in execute(several, folder)
    execute(hydra, folder)
    path = folder / "hydra-model" / "checkpoint_last.pt"
    execute(translate.replace("dense/checkpoint_last.pt", str(path)), folder)
