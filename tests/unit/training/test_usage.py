"""Mistakes in options and data folders are found before fairseq is there, with what would do."""

import shutil
from pathlib import Path

import pytest

from user_dir.errors import UserError
from user_dir.training.usage import check_command, check_usage, sentence_of_parser

GOOD = (
    *("--task", "scomoe_translation", "-s", "en", "-t", "de", "--arch", "scomoe_tiny"),
    *("--criterion", "moe_cross_entropy", "--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)"),
    *("--lr", "3e-3", "--max-tokens", "64", "--cpu"),
    *("--moe-eval-capacity-token-fraction", "-1"),
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
        ([*GOOD, "--max-source-positions", "x"], "--max-source-positions must be a whole number"),
        ([*GOOD, "--sampling-temperature=hot"], "--sampling-temperature must be a number, not"),
        ([*GOOD, "--patience", "--bf16"], "--patience needs a value"),
        ([*GOOD, "--use-moe-pad-mask"], "there is no option --use-moe-pad-mask: padding is never"),
        (changed("-t", "fr"), "-t fr: {corpus} has no text in fr, but in de, en"),
    ],
)
def test_a_mistake_is_named_with_what_would_do(corpus, arguments, sentence):
    assert sentence.format(corpus=corpus) in refused(corpus, *arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--ratio1 0.2", "--ratio1 0.2 has no effect without --scomoe-type"),
        ("--scomoe-type seq --ratio1 0.7 --ratio2 0.5", "add up to more than 1"),
        ("--scomoe-type feat --ratio1 0.01", "but each must be 0 or a multiple of 8"),
        ("--scomoe-type seq --encoder-layers 2 --decoder-layers 2", "would be used in no layer"),
        ("--token-cluster --encoder-layers=3", "needs an even number of layers"),
        ("--cluster-by token", "--cluster-by token needs --token-cluster"),
        ("--scomoe-type bottleneck", "go together; give both, or leave both out"),
        ("--criterion cross_entropy", "--criterion cross_entropy trains the experts without"),
        ("--fp16", "--fp16 is very slow on a CPU"),
        ("--lr 0.25", "--lr is 0.25, fairseq's value where none is given"),
        ("--moe-gate sigmoid --moe-top1-expert", "does not go with --moe-top1-expert"),
        ("--moe-freq -1", "--encoder-moe-freq must be 0 (no MoE layer) or a positive number"),
        ("--moe-nodes 0 --moe-ranks-per-node 2", "--moe-nodes must be at least 1"),
        (
            "--token-cluster --moe-nodes 3 --moe-ranks-per-node 1",
            "--moe-expert-count is 8 for 3 logical ranks (3 nodes x 1 ranks); 9 would do",
        ),
    ],
)
def test_mixtures_that_do_not_fit_are_refused_as_the_model_would(corpus, options, sentence):
    assert sentence in refused(corpus, *GOOD, *options.split())


@pytest.mark.parametrize(
    "options",
    [
        "--scomoe-type seq --ratio1 0.2 --ratio2 0.5 --token-cluster",
        "--scomoe-type feat --encoder-embed-dim 64 --decoder-embed-dim 64",
        "--moe-freq 0 --criterion cross_entropy",
        "--encoder-layers 3 --moe-freq 3",
        "--token-cluster --moe-nodes 2",  # the other half is what runs
    ],
)
def test_those_that_fit_pass(corpus, options):
    check_usage([str(corpus), *GOOD, *options.split()])


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
