"""Every command in README and the documents: its program takes the options that are shown.

Those that need no cluster, no GPU, no hours and no network are also run: test_pages_run.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell.documents import PAGES, blocks_of, link_scripts
from tests.support.shell.running import IMPORTED, Shell, open_shell

# What scripts look at before they start anything.
_LISTS = ("corpora/numbers/bin", "corpora/gnome/bin")
_FOLDERS = ("corpora/opus-100/bin", "corpora/small/bin", "corpora/wmt-en-fr/bin", "evaluation")
_COPIED = ("numbers/raw/train.en-fr.en", "numbers/raw/train.en-fr.fr")
_CHECKPOINTS = ("opus-100-large", "opus-100-base", "wmt-en-fr-large", "small")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    everything = (*IMPORTED, "user_dir.register", "user_dir.cli.evaluate")
    with open_shell(
        tmp_path_factory.mktemp("shell"), only_parses=True, imported=everything
    ) as shell:
        yield shell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands stand: empty files under the names that scripts look for."""
    here = tmp_path_factory.mktemp("pages")
    link_scripts(here)
    for name in (*_LISTS, *_FOLDERS):
        (here / name).mkdir(parents=True)
    for name in _LISTS:
        (here / name / "pairs.txt").write_text("en-de,de-en\n")
    for name in _CHECKPOINTS:
        path = here / "checkpoints" / name / "checkpoint_best.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        path.with_name("average.pt").touch()
    for name in "evaluation/scores.md", *_COPIED:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    return here


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_the_commands_of_a_page_are_taken_by_their_programs(page, shell, folder):
    for block in blocks_of(page):
        shell.run(block, folder)


@pytest.mark.parametrize(
    "command",
    [
        "scomoe-train DATA --moe-expert-cout 8 …",
        "srun --ntasks-per-node 8 scomoe-train DATA --moe-expert-count eight …",
        "torchrun --nproc-per-node 8 -m user_dir.cli.plan --prabe",
        "scomoe-translate --path a.pt --beem 4 --input x",
        "preprocess_scripts/prepare_numbers.sh --aut corpora/numbers",
        "train_scripts/scomoe/train_base_model_on_opus100.sh --data corpora/small --moe-frek 2",
        "python -m benchmarks.learning --corpos numbers",
        "fairseq-generate data-bin --beem 5 --path a.pt",
        "scomoe-trein DATA",
        "make quickstrat",
    ],
)
def test_a_command_that_has_rotted_is_found(command, shell, folder):
    with pytest.raises(AssertionError):
        shell.run(command, folder)
