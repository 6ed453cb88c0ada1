"""Mistakes in options and data folders are found before fairseq is there, with what would do."""

import shutil
from pathlib import Path

import pytest

from user_dir.errors import UserError
from user_dir.training.usage import check_command, check_usage, sentence_of_parser

GOOD = (
    *("--task", "scomoe_translation", "-s", "en", "-t", "de", "--arch", "scomoe_tiny"),
    *("--criterion", "moe_cross_entropy", "--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)"),
    *("--lr", "3e-3", "--max-tokens", "64", "--cpu", "--moe-freq", "-1"),
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A prepared folder of names alone: nothing here reads the files."""
    folder = tmp_path / "mine" / "bin"
    folder.mkdir(parents=True)
    for name in ("dict.de.txt", "dict.en.txt", "train.en-de.en.idx", "train.en-de.de.idx"):
        (folder / name).touch()
    return folder


def refused(*arguments: str | Path) -> str:
    with pytest.raises(UserError) as error:
        check_usage([str(one) for one in arguments])
    return str(error.value)


def without(flag: str) -> list[str]:
    at = GOOD.index(flag)
    return [*GOOD[:at], *GOOD[at + 2 :]]


def changed(flag: str, value: str) -> list[str]:
    at = GOOD.index(flag)
    return [*GOOD[: at + 1], value, *GOOD[at + 2 :]]


def test_what_is_right_passes_with_the_data_first_last_or_after_a_switch(corpus):
    check_usage([str(corpus), *GOOD])
    check_usage([*GOOD, str(corpus)])
    check_usage(["--cpu", str(corpus), *GOOD])
    check_usage(["--processes", "2", str(corpus), *GOOD])
    check_usage(["--no-progress-bar", str(corpus), *GOOD])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*GOOD, "--moe-expert-cout", "8"], "did you mean --moe-expert-count?"),
        ([*GOOD, "--warmup-update=200"], "there is no option --warmup-update; did you mean"),
        ([*GOOD, "--zzqqxx"], "there is no option --zzqqxx; --help lists our options"),
        ([*GOOD, "--moe-expert-count", "8.5"], "--moe-expert-count must be a whole number, not"),
        ([*GOOD, "--max-epoch", "many"], "--max-epoch must be a whole number, not 'many'"),
        (changed("--lr", "abc"), "--lr must be a number, or several with commas between, not"),
        ([*GOOD, "--moe-gate", "softmx"], "--moe-gate softmx is unknown; did you mean softmax?"),
        ([*GOOD, "--capacity-factor"], "--capacity-factor needs a value"),
        (changed("--arch", "scomoe_bse"), "--arch scomoe_bse is unknown; did you mean scomoe_base"),
        (changed("--task", "translaton"), "--task translaton is unknown; did you mean translation"),
        (changed("--optimizer", "x"), "--optimizer x is unknown; moe_adam would do"),
        (without("--arch"), "--arch is missing, which names the model"),
        (without("--task"), "--task is missing: --task scomoe_translation for two languages"),
        (without("--optimizer"), "--optimizer is missing"),
        ([*GOOD, "--user-dir", "nowhere"], "--user-dir (nowhere): no such folder here"),
        (changed("-t", "fr"), "-t fr: {corpus} has no text in fr, but in de, en"),
    ],
)
def test_a_mistake_is_named_with_what_would_do(corpus, arguments, sentence):
    assert sentence.format(corpus=corpus) in refused(corpus, *arguments)


def test_the_folder_of_the_data_is_found_wanting(corpus, tmp_path):
    assert refused(*GOOD).startswith("DATA is missing")
    for before in ["--processes", "2"], ["--cpu"], []:
        sentence = refused(*before, tmp_path / "x", *GOOD)
        assert sentence.startswith(f"DATA ({tmp_path / 'x'}): no such folder")
    assert refused(corpus.parent, *GOOD).endswith(f"but {corpus} does: name that folder")
    assert "is a file" in refused(corpus / "dict.de.txt", *GOOD)
    both = f"{corpus}:{corpus / 'no'}"
    assert refused(both, *GOOD).startswith(f"DATA ({corpus / 'no'}): no such folder")
    (corpus / "dict.fr.txt").touch()
    assert refused(corpus, *changed("-t", "fr")).endswith("has text of de-en only")
    (corpus / "dict.de.txt").unlink()
    assert refused(corpus, *GOOD).startswith(f"{corpus / 'dict.de.txt'} is missing, the dictionary")
    shutil.rmtree(corpus)
    assert "holds no binarised text; name a folder" in refused(corpus.parent, *GOOD)


def test_lists_of_languages_are_found_wanting(corpus):
    task = changed("--task", "scomoe_multilingual_translation")
    assert refused(corpus, *task).startswith("--lang-pairs is missing, the directions to train")
    check_usage([str(corpus), *task, "--lang-pairs", "en-de,de-en"])
    sentence = refused(corpus, *task, f"--lang-pairs={corpus}/pairs.txt")
    assert sentence.startswith(f"--lang-pairs ({corpus}/pairs.txt): no such file")
    lists = ["--lang-pairs", "en-de", "--lang-dict", "langs.txt"]
    assert refused(corpus, *task, *lists).startswith("--lang-dict (langs.txt): no such file")


def test_a_plugin_of_the_users_own_may_have_options_of_its_own(corpus, tmp_path):
    check_usage([str(corpus), *GOOD, "--user-dir", str(tmp_path), "--zzqqxx", "3"])


def test_fairseq_train_with_this_plugin_is_checked_too(corpus):
    user_dir = ["--user-dir", "user_dir"]
    with pytest.raises(UserError, match="--arch is missing"):
        check_command(["/usr/bin/fairseq-train", str(corpus), *user_dir, *without("--arch")])
    check_command(["/usr/bin/fairseq-train", str(corpus), *user_dir, "--help"])
    check_command(["/usr/bin/fairseq-train", str(corpus), *user_dir, *without("--task")])
    check_command(["/usr/bin/fairseq-generate", str(corpus), *user_dir])


def test_what_fairseqs_parser_finds_is_told_in_a_sentence():
    known = ["--save-interval"]
    message = "unrecognized arguments: --save-intervall 3"
    assert sentence_of_parser(message, known).endswith("did you mean --save-interval?")
    assert "belongs to no option" in sentence_of_parser("unrecognized arguments: de", known)
    missing = "the following arguments are required: data"
    assert sentence_of_parser(missing).startswith("data is missing")
