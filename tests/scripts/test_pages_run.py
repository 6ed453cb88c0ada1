"""The commands in README and the documents, run as they stand there, at small size.

A block that is not excused below is run, page by page, where the files are that it speaks of.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.test_prepare import sentences, write
from tests.support.shell.documents import PAGES, blocks_of, link_scripts
from tests.support.shell.performing import DATA, REST
from tests.support.shell.running import Shell, open_shell

_CLUSTER = "needs GPUs, or a cluster; the scripts: tests/scripts/test_train_scripts.py, tests/slurm"
_SCRIPTS = "tests/scripts/test_train_scripts.py and test_eval_scripts.py"
_NETWORK = "downloads; with text of its own: tests/scripts/test_prepare_{}.py"
_HOURS = "takes hours; small: tests/unit/test_benchmarks.py and test_learning_results.py"
_INSTALLS = "installs: tests/scripts/test_install.py"
# (Page, how the block begins) -> why it is not run here. Its options are parsed all the same, by
# test_options_in_pages.py.
EXCUSED = {
    ("README.md", "make quickstart"): "tests/scripts/test_quickstart.py",
    ("CONTRIBUTING.md", "make install"): _INSTALLS,
    (
        "benchmarks/README.md",
        "python -m benchmarks.methods_picture",
    ): "tests/unit/test_methods_picture.py",
    ("benchmarks/README.md", "make bench"): "tests/unit/test_benchmarks.py",
    ("docs/corpora.md", "preprocess_scripts/prepare_multi30k.sh"): _NETWORK.format("multi30k"),
    ("docs/debian.md", "preprocess_scripts/prepare_debian.sh"): _NETWORK.format("debian"),
    ("docs/debian.md", "preprocess_scripts/prepare_gnome.sh"): _NETWORK.format("gnome"),
    ("docs/debian.md", "scomoe-train"): "on Debian's text; the same commands as of README",
    ("docs/export.md", "scomoe-export"): "tests/scripts/test_export.py",
    ("docs/installation.md", "sudo"): _INSTALLS,
    ("docs/installation.md", "PIP_EXTRA_INDEX_URL"): _INSTALLS,
    ("docs/installation.md", "pip install"): _INSTALLS,
    ("docs/installation.md", "docker"): "tests/unit/test_containers.py",
    ("docs/installation.md", "apptainer"): "tests/unit/test_containers.py",
    ("docs/limits.md", "python -m benchmarks"): _HOURS,
    ("docs/methods.md", "python -m benchmarks"): _HOURS,
    ("docs/opus-100.md", "preprocess_scripts/multilingual"): _NETWORK.format("opus100"),
    ("docs/opus-100.md", "preprocess_scripts/prepare_numbers"): _SCRIPTS,
    ("docs/opus-100.md", "train_scripts"): _CLUSTER,
    ("docs/opus-100.md", "eval_scripts"): _SCRIPTS,
    ("docs/results.md", "python -m benchmarks"): _HOURS,
    ("docs/results.md", "make quickstart"): _HOURS,
    ("docs/translating.md", "comet-compare"): "COMET is not ours",
    ("docs/tutorial.md", "make install"): _INSTALLS,
    ("docs/wmt17-en-fr.md", "preprocess_scripts"): _NETWORK.format("wmt"),
    ("docs/wmt17-en-fr.md", "train_scripts"): _CLUSTER,
    ("docs/wmt17-en-fr.md", "scomoe-average"): _SCRIPTS,
}
# What a page's commands find other than it says.
CHANGED = {
    "docs/translating.md": {
        "model/checkpoint_best.pt -s fr -t en": "multilingual/checkpoint_best.pt -s fr -t en"
    }
}


def is_excused(page: str, block: str) -> bool:
    return any(page == of and block.startswith(start) for of, start in EXCUSED)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("shell")) as shell:
        yield shell


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """Text, and what README's commands make of it: a corpus and a model."""
    here = tmp_path_factory.mktemp("world")
    link_scripts(here)
    for name, lines in ("corpus", 120), ("dev", 10), ("test", 6), ("text", 3):
        for language in "en", "de":
            write(here / f"{name}.{language}", sentences(language, lines, 7 * len(name)))
    _, own_text, _ = blocks_of("README.md")
    done = shell.run(own_text, here, variables={"SHELL_PROCESSES": "2"})
    assert "on 2 processes" in done.stdout
    assert len((here / "text.de").read_text("utf-8").splitlines()) == 3
    return here


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A copy of that world, to which a page may add."""
    here = tmp_path / "here"
    shutil.copytree(world, here, symlinks=True)
    return here


def run_page(page: str, shell: Shell, folder: Path, variables=None) -> str:
    said = ""
    for block in blocks_of(page):
        if is_excused(page, block):
            continue
        block = re.sub(r"\bDATA\b", DATA, block)
        for shown, meant in CHANGED.get(page, {}).items():
            assert shown in "".join(blocks_of(page))
            block = block.replace(shown, meant)
        said += shell.run(block, folder, variables=variables).stdout
    return said


def test_every_excuse_is_of_a_block():
    for page, start in EXCUSED:
        assert any(block.startswith(start) for block in blocks_of(page)), (page, start)


# Pages that need more than that world, or are run another way, have tests of their own.
OWN = {"README.md"} | {
    f"docs/{name}.md"
    for name in (
        *("corpora", "from-fairseq", "report", "translating", "tutorial", "upcycling"),
        "your-own-text",
    )
}
HAVE_COMMANDS = [
    page for page in PAGES if any(not is_excused(page, block) for block in blocks_of(page))
]


@pytest.mark.parametrize("page", [page for page in HAVE_COMMANDS if page not in OWN])
def test_the_commands_of_a_page_run(page, shell, folder):
    link_corpora(folder, "m30k-en-de")
    shutil.rmtree(folder / "model")
    run_page(page, shell, folder)


def test_the_arguments_that_readme_appends_are_taken(shell, folder):
    shell.run(blocks_of("README.md")[2], folder)


def link_corpora(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "corpora" / name).symlink_to("mine")


def test_the_tutorial_leads_from_two_files_to_a_report(shell, tmp_path):
    link_scripts(tmp_path)
    said = run_page("docs/tutorial.md", shell, tmp_path)
    assert re.search(r"GShard.*SCoMoE", said)
    assert said.count("8 experts each") == 2
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "gshard/model" in page and "seq/model" in page and "<svg" in page


def test_one_s_own_text_becomes_a_translation_and_a_score(shell, folder):
    shutil.rmtree(folder / "corpora")
    shutil.rmtree(folder / "model")
    first, pieces = blocks_of("docs/your-own-text.md")
    assert first.count("\n") <= 10
    done = shell.run(first, folder)
    assert re.search(r"\| en-de \| +1 \| +6 \|", done.stdout), done.stdout
    assert len((folder / "evaluation/test.en-de.de").read_text("utf-8").splitlines()) == 6
    binarise_pieces(folder, shell)
    for name in "model", "evaluation":
        shutil.rmtree(folder / name)
    rest = REST.replace("--no-save", "--save-dir model")
    shell.run(f"scomoe-train data-bin {rest}\n{pieces}", folder)


def binarise_pieces(folder: Path, shell: Shell) -> None:
    """A folder of fairseq-preprocess, of words cut by subword-nmt's marks."""
    for split, lines in ("train", 120), ("valid", 8), ("test", 6):
        for language in "en", "de":
            cut = [re.sub(r"(\w{4})(?=\w)", r"\1@@ ", line) for line in sentences(language, lines)]
            write(folder / f"{split}.{language}", cut)
    shutil.copy(folder / "test.en", folder / "pieces.en")
    shell.run(
        "fairseq-preprocess -s en -t de --trainpref train --validpref valid --testpref test "
        "--joined-dictionary --destdir data-bin",
        folder,
    )


@pytest.mark.slow
def test_commands_lead_from_fairseq_to_a_mixture_and_back(shell, folder):
    binarise_pieces(folder, shell)
    dense, moe, several, generate, translate, stock, hydra = blocks_of("docs/from-fairseq.md")
    shell.run(dense, folder)
    shell.run(translate, folder)
    text = (folder / "text.de").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 6
    assert "@@" not in text
    shell.run(moe, folder)
    for command in stock, generate:
        assert len(re.findall(r"^H-\d", shell.run(command, folder).stdout, re.MULTILINE)) == 6
    said = shell.run(several, folder, variables={"SHELL_PROCESSES": "2"}).stdout
    assert "1 node x 2 ranks, on 2 processes" in said
    shell.run(hydra, folder)
    path = "hydra-model/checkpoint_last.pt"
    shell.run(translate.replace("dense/checkpoint_last.pt", path), folder)


def test_the_commands_on_translating_run(shell, folder):
    link_corpora(folder, "numbers")
    (folder / "model" / "train.log").stat()
    for language in "en", "de":
        shutil.copy(folder / f"test.{language}", folder / f"news.{language}")
    shutil.copy(folder / "test.de", folder / "news-second.de")
    as_published(folder)
    multilingual(folder, shell)
    best = folder / "model" / "checkpoint_best.pt"
    for number in range(1, 6):
        for name in f"checkpoint{number}.pt", f"checkpoint_1_{number}0.pt":
            shutil.copy(best, best.with_name(name))
    for name in "a.pt", "b.pt":
        shutil.copy(best, folder / name)
    for name in "dense", "moe":
        (folder / f"evaluation-{name}").symlink_to("evaluation-news")
    run_page("docs/translating.md", shell, folder)
    assert (folder / "table.json").exists() and (folder / "average.pt").exists()
    for name in "news", "flores", "ntrex":
        assert (folder / f"evaluation-{name}" / "scores.md").exists()


def as_published(folder: Path) -> None:
    """FLORES-200 and NTREX-128, three sentences each."""
    for language, name in ("en", "eng_Latn"), ("de", "deu_Latn"):
        write(folder / "flores200_dataset/devtest" / f"{name}.devtest", sentences(language, 3))
    ntrex = folder / "NTREX" / "NTREX-128"
    write(ntrex / "newstest2019-src.eng.txt", sentences("en", 3))
    write(ntrex / "newstest2019-ref.deu.txt", sentences("de", 3))


def multilingual(folder: Path, shell: Shell) -> None:
    shell.run(
        "scomoe-prepare-numbers --out three --languages de,fr --vocab-size 150 && "
        "scomoe-train three/bin --task scomoe_multilingual_translation --encoder-langtok tgt "
        "--lang-dict three/bin/langs.txt --lang-pairs three/bin/pairs.txt --arch scomoe_tiny "
        "--criterion moe_cross_entropy --optimizer moe_adam --lr 1e-3 --save-dir multilingual && "
        "echo un > text.fr",
        folder,
    )


def test_the_commands_on_reports_run(shell, folder):
    for name in "seq", "gshard":
        shutil.copytree(folder / "model", folder / name / "model")
    run_page("docs/report.md", shell, folder)
    assert "gshard/model" in (folder / "report.html").read_text("utf-8")


def test_the_commands_on_upcycling_run(shell, folder):
    shell.run(
        f"scomoe-train {DATA} {REST.replace('--no-save', '')} --moe-freq 0 --save-dir dense", folder
    )
    run_page("docs/upcycling.md", shell, folder)


def test_the_commands_on_corpora_run(shell, folder):
    link_corpora(folder, "m30k-en-de")
    run_page("docs/corpora.md", shell, folder)
