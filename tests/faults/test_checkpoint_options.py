"""A checkpoint is data: its options run nothing, expand nothing, and have no other file printed."""

import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import (
    DATA,
    FIXTURE,
    altered,
    set_options,
    sound_state,
    translate_with,
    with_options,
)
from tests.support.commands import ROOT, run
from user_dir.checkpoints.command_line import check_command
from user_dir.checkpoints.options.check import check_options
from user_dir.checkpoints.options.named_files import check_named_files
from user_dir.cli import average
from user_dir.errors import UserError
from user_dir.text.pairs import language_name

SECRET = "root:x:0:0:secret"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there if a checkpoint has run code."""
    return tmp_path / "was-run"


@pytest.fixture
def hostile(tmp_path: Path, mark: Path) -> Path:
    """A checkpoint with a call in an option that fairseq evaluates."""
    code = f"[__import__('pathlib').Path({str(mark)!r}).touch() or 1]"
    return with_options(tmp_path / "hostile.pt", adaptive_softmax_cutoff=code)


def refused(message: str, capsys: pytest.CaptureFixture) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "error: " in line


def test_translation_refuses_code_in_an_option(hostile, mark, capsys):
    assert translate_with(hostile) == 2
    refused(f"--path ({hostile}): its option adaptive_softmax_cutoff is ", capsys)
    assert translate_with(hostile, "--trust-checkpoint") == 2
    assert not mark.exists()


def test_averaging_refuses_code_in_an_option(hostile, tmp_path, capsys):
    output = tmp_path / "averaged.pt"
    assert average.main(["--inputs", str(hostile), "--output", str(output)]) == 2
    refused(f"--inputs ({hostile}): its option adaptive_softmax_cutoff is ", capsys)
    assert not output.exists()


COMMANDS = {
    "generate": ["--path"],
    "interactive": ["--input", FIXTURE / "source.en", "--path"],
    "validate": ["--valid-subset", "test", "--max-tokens", "200", "--path"],
    "train": ["--arch", "scomoe_tiny", "--max-tokens", "200", "--restore-file"],
    "train ": ["--arch", "transformer", "--max-tokens", "200", "--finetune-from-model"],
}


def command_of_fairseq(name: str, save_dir: Path) -> list[str]:
    """The arguments of one of fairseq's commands but for the checkpoint's name at the end."""
    arguments = [*DATA, "--user-dir", "user_dir", "--cpu"]
    arguments += ["--save-dir", save_dir] if name.startswith("train") else []
    return list(map(str, [*arguments, *COMMANDS[name]]))


@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_a_command_of_fairseq_loads_is_checked(name, hostile, tmp_path):
    arguments = command_of_fairseq(name, tmp_path / "run")
    with pytest.raises(UserError) as caught:
        check_command([f"/somewhere/fairseq_cli/{name.strip()}.py", *arguments, str(hostile)])
    assert str(caught.value).startswith(f"{arguments[-1]} ({hostile}): its option adaptive_")


@pytest.mark.parametrize("name", ["generate", "train"])
def test_commands_of_fairseq_refuse_code_in_an_option(name, hostile, mark, tmp_path):
    arguments = command_of_fairseq(name, tmp_path / "run")
    done = run([sys.executable, "-m", f"fairseq_cli.{name}", *arguments, hostile], check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fairseq-{name}: error: {arguments[-1]} ({hostile}): its option adap")
    assert not mark.exists()


def test_overrides_of_hydra_are_checked(hostile, capsys):
    arguments = ["common.user_dir=user_dir", f"checkpoint.restore_file={hostile}"]
    with pytest.raises(SystemExit, match="2"):
        check_command(["/somewhere/fairseq_cli/hydra_train.py", *arguments])
    line = capsys.readouterr().err
    assert line.startswith(f"fairseq-hydra-train: error: checkpoint.restore_file ({hostile}): its")


@pytest.mark.slow
def test_fairseq_hydra_train_refuses_code_in_an_option(hostile, mark, tmp_path):
    data, *_ = DATA
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", f"hydra.run.dir={tmp_path}"]
    command += [f"common.user_dir={ROOT / 'user_dir'}", "common.cpu=true"]
    options = {"task._name": "scomoe_translation", "task.data": data, "task.source_lang": "en"}
    options |= {"task.target_lang": "de", "model._name": "scomoe_tiny"}
    options |= {"criterion._name": "moe_cross_entropy", "optimizer._name": "moe_adam"}
    command += [f"++{name}={value}" for name, value in options.items()]
    command += ["dataset.max_tokens=128"]
    done = run([*command, f"checkpoint.restore_file={hostile}"], check=False)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"fairseq-hydra-train: error: checkpoint.restore_file ({hostile}): its")
    assert not mark.exists()


def test_training_refuses_code_in_an_option(hostile, mark, tmp_path):
    command = [sys.executable, "-m", "user_dir.cli.train", *DATA, "--arch", "scomoe_tiny", "--cpu"]
    command += ["--max-tokens", "200", "--save-dir", tmp_path, "--restore-file", hostile]
    command += ["--optimizer", "moe_adam", "--lr", "3e-3", "--criterion", "moe_cross_entropy"]
    done = run(command, check=False)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"scomoe-train: error: --restore-file ({hostile}): its option adaptive_")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive_softmax_cutoff": "exit()"}, "adaptive_softmax_cutoff"),
        ({"left_pad_source": "print(1)"}, "left_pad_source"),
        ({"adam_betas": "(0.9, open('x'))"}, "adam_betas"),
        ({"conv_feature_layers": "[1] * 10**9"}, "conv_feature_layers"),
        ({"encoder_attention": "[" * 9000}, "encoder_attention"),
        ({"data": "${oc.env:HOME}"}, "data is '${oc.env:HOME}', which would be expanded"),
        ({"tokenizer_note": ["${oc.env:HOME}"]}, "tokenizer_note"),
        ({"encoder_layers": "4"}, "encoder_layers is '4', but must be a whole number"),
        ({"encoder_layers": 4.0}, "encoder_layers"),
        ({"dropout": float("nan")}, "dropout"),
        ({"encoder_normalize_before": "no"}, "encoder_normalize_before"),
        ({"scomoe_type": "all"}, "scomoe_type is 'all', but must be one of its choices"),
        ({"ratio1": "exit()"}, "ratio1"),
        ({"lang_pairs": 3}, "lang_pairs"),
        ({"arch": "wav2vec2"}, "arch is 'wav2vec2', which is not among ours"),
        ({"task": "audio_pretraining"}, "task"),
        ({"criterion": "wav2vec"}, "criterion"),
        ({"arch": "no such"}, "arch"),
        ({"x": complex(1, 1)}, "x is of type complex"),
    ],
)
def test_an_option_that_is_not_what_is_declared_is_named(options, message):
    state = sound_state()
    set_options(state, **options)
    with pytest.raises(UserError, match="its option") as caught:
        check_options(state)
    assert message in str(caught.value)


@pytest.mark.parametrize("part", ["model", "task", "criterion"])
def test_a_part_that_does_not_translate_needs_the_flag(part):
    state = sound_state()
    group = state["cfg"][part]
    group = vars(group) if part == "model" else group
    group["_name"] = "wav2vec2" if part == "model" else "other"
    with pytest.raises(UserError, match="--trust-checkpoint"):
        check_options(state)
    check_options(state, trusted=True)


@pytest.mark.parametrize(
    "options",
    [
        {"adaptive_softmax_cutoff": "[100, 200]"},
        {"encoder_attention": "[True] * 3 + [False]"},
        {"left_pad_source": "False"},
        {"adam_betas": [0.9, 0.98]},
        {"encoder_layers": None},
        {"some_option_of_the_future": {"a": [1, 2.5, None, "b"]}},
        {"arch": "transformer_wmt_en_de"},
    ],
)
def test_options_as_fairseq_writes_them_are_taken(options):
    state = sound_state()
    set_options(state, **options)
    check_options(state)


def test_the_flat_options_of_older_files_are_checked_too(tmp_path, capsys):
    def make_old(state):
        state["args"], state["cfg"] = state["cfg"]["model"], None
        state["args"].adaptive_softmax_cutoff = "exit()"

    assert translate_with(altered(tmp_path / "old.pt", make_old)) == 2
    refused("adaptive_softmax_cutoff", capsys)


def multilingual(path: Path, **options: object) -> Path:
    """A checkpoint of the multilingual task whose languages are listed somewhere."""

    def change(state):
        task = {**state["cfg"]["task"], "_name": "scomoe_multilingual_translation"}
        state["cfg"]["task"] = {**task, "lang_pairs": "en-de", **options}

    return altered(path, change)


@pytest.mark.parametrize("option", ["lang_dict", "lang_pairs", "source_dict"])
def test_a_file_that_an_option_names_is_not_printed(option, tmp_path, capsys):
    secret = tmp_path / "passwd"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    path = multilingual(tmp_path / "m.pt", **{option: str(secret)})
    assert translate_with(path, "-s", "en", "-t", "de") == 2
    captured = capsys.readouterr()
    assert f"its option {option} names {secret}" in captured.err
    assert SECRET not in captured.err + captured.out


def test_whatever_preparing_calls_a_language_is_one(tmp_path):
    names = [
        language_name(name, flag="-s")
        for name in ("de", "x", "l001", "german", "zh-CN", "eng_Latn")
    ]
    languages, pairs = tmp_path / "langs.txt", tmp_path / "pairs.txt"
    languages.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    pairs.write_text(",".join(f"{name}-en" for name in names), encoding="utf-8")
    check_named_files({"lang_dict": str(languages), "lang_pairs": str(pairs)})


def test_a_dictionary_that_is_none_is_not_printed(tmp_path, capsys):
    for language in "en", "de":
        (tmp_path / f"dict.{language}.txt").write_text(f"{SECRET}\n", encoding="utf-8")
    assert translate_with(FIXTURE / "checkpoint.pt", "--data", tmp_path) == 2
    captured = capsys.readouterr()
    assert "dict.en.txt" in captured.err
    assert "secret" not in captured.err + captured.out
