"""Damaged and made-up checkpoints end with a sentence, in no time, whoever loads them."""

import random
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import DATA, FIXTURE, altered, set_options, translate_with
from tests.support.commands import run
from user_dir.checkpoints.command_line import check_command
from user_dir.checkpoints.files import open_checkpoint
from user_dir.checkpoints.resuming import check_start
from user_dir.errors import UserError

CHECKPOINT = FIXTURE / "checkpoint.pt"


def sentence(capsys: pytest.CaptureFixture) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("scomoe-translate: error: --path ")
    return line


def put(*keys, value):
    """A change that puts a value at a place inside a checkpoint."""

    def change(state):
        for key in keys[:-1]:
            state = vars(state)[key] if isinstance(state, Namespace) else state[key]
        if isinstance(state, Namespace):
            state = vars(state)
        state[keys[-1]] = value

    return change


def without(*keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def with_sizes(**options):
    return lambda state: set_options(state, **options)


EMBEDDING = "encoder.embed_tokens.weight"
BROKEN = {
    "model None": put("model", value=None),
    "model of numbers": put("model", EMBEDDING, value=3),
    "model empty": put("model", value={}),
    "model of bytes that repeat": put(
        "model", EMBEDDING, value=torch.zeros(1).expand(2**20, 2**20)
    ),
    "model without values": put("model", EMBEDDING, value=torch.zeros(3, device="meta")),
    "cfg a string": put("cfg", value="cfg"),
    "cfg without a model": without("cfg", "model"),
    "cfg without a task": put("cfg", "task", value=None),
    "layout of three": put("model", "moe_layout", value=torch.tensor([2, 2, 2])),
    "layout of nothing": put("model", "moe_layout", value=torch.tensor([0, 2])),
    "layout of floats": put("model", "moe_layout", value=torch.tensor([2.0, 2.0])),
    "no history": without("optimizer_history"),
    "empty history": put("optimizer_history", value=[]),
    "updates of words": put("optimizer_history", 0, "num_updates", value="many"),
    "extra_state a list": put("extra_state", value=[1]),
    "task_state a string": put("task_state", value="x"),
    "10 million layers": with_sizes(encoder_layers=10**7),
    "negative layers": with_sizes(decoder_layers=-(10**7)),
    "a width of a billion": with_sizes(encoder_embed_dim=10**9),
    "a hidden width of a billion": with_sizes(moe_expert_ffn_dim=10**9),
    "a billion experts": with_sizes(moe_expert_count=10**9),
    "a billion nodes": with_sizes(moe_nodes=10**9),
    "a billion positions": with_sizes(max_source_positions=10**9),
    "a cutoff at a billion": with_sizes(adaptive_softmax_cutoff="[1, 1000000000]"),
    "NaN": put("model", "encoder.layers.0.fc1.bias", value=torch.full((16,), torch.nan)),
    "infinity": put("model", "encoder.layers.0.fc1.bias", value=torch.full((16,), -torch.inf)),
    "other width": with_sizes(decoder_embed_dim=32, decoder_output_dim=32),
    "other heads": with_sizes(encoder_attention_heads=3),
    "no heads": with_sizes(encoder_attention_heads=0),
    "no weights of a layer": without("model", "encoder.layers.0.fc1.bias"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.timeout(30)
def test_what_no_training_has_written_ends_with_a_sentence(what, tmp_path, capsys):
    path = altered(tmp_path / "broken.pt", BROKEN[what])
    assert translate_with(path) == 2
    assert str(path) in sentence(capsys)


def test_bytes_that_are_no_checkpoint_end_with_a_sentence(tmp_path, capsys):
    whole = CHECKPOINT.read_bytes()
    dice = random.Random(1)
    lengths = sorted(dice.sample(range(len(whole)), 12))
    contents = [whole[:length] for length in lengths]
    contents += [b"", b"PK\x03\x04", b"PK\x03\x04" + whole[40:], dice.randbytes(5000), b"text\n"]
    contents += [whole[200:], b"\x80\x02" + dice.randbytes(200)]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        assert translate_with(path) == 2
        assert str(path) in sentence(capsys)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_weights_in_silence(count, tmp_path):
    whole = bytearray(CHECKPOINT.read_bytes())
    expected = open_checkpoint(CHECKPOINT, flag="--path")
    dice = random.Random(2)
    num_refused = 0
    for number in range(count):
        place, bit = dice.randrange(len(whole)), dice.randrange(8)
        flipped = whole.copy()
        flipped[place] ^= 1 << bit
        path = tmp_path / f"{number}.pt"
        path.write_bytes(flipped)
        try:
            state = open_checkpoint(path, flag="--path")
        except UserError as error:
            assert str(path) in str(error)
            num_refused += 1
            continue
        finally:
            path.unlink()
        assert state["model"].keys() == expected["model"].keys()
        for name, tensor in expected["model"].items():
            assert torch.equal(state["model"][name], tensor), (number, place, bit, name)
        assert str(state["cfg"]) == str(expected["cfg"])
    assert num_refused > count / 2  # most of the file is weights


def test_a_damaged_weight_is_told_from_a_wrong_file(tmp_path, capsys):
    content = bytearray(CHECKPOINT.read_bytes())
    weights = torch.load(CHECKPOINT, weights_only=True)["model"][EMBEDDING]
    content[content.index(weights.numpy().tobytes()) + 9] ^= 4
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    assert translate_with(path) == 2
    assert "are not what was written" in sentence(capsys)


def test_files_of_old_torch_translate_as_new_ones_do(tmp_path, capsys):
    old = altered(tmp_path / "old.pt", lambda _: None, _use_new_zipfile_serialization=False)
    before = old.read_bytes()
    assert translate_with(CHECKPOINT, "--beam", "1") == 0
    expected = capsys.readouterr().out
    assert translate_with(old, "--beam", "1") == 0
    assert capsys.readouterr().out == expected != ""
    assert old.read_bytes() == before


def test_generation_of_fairseq_refuses_what_is_broken(tmp_path):
    path = altered(tmp_path / "broken.pt", BROKEN["10 million layers"])
    arguments = [*DATA, "--user-dir", "user_dir", "--cpu", "--path", path]
    with pytest.raises(UserError) as caught:
        check_command(["fairseq-generate", *map(str, arguments)])
    assert str(caught.value).startswith(f"--path ({path}): its option encoder_layers")


def train(save_dir: Path, *options: str | Path, command: str = "user_dir.cli.train"):
    """Train a model of another width than the fixture's."""
    arguments = [sys.executable, "-m", command, *DATA, "--save-dir", save_dir]
    arguments += ["--user-dir", "user_dir", "--cpu", "--arch", "scomoe_tiny", "--seed", "3"]
    arguments += ["--moe-nodes", "2", "--moe-ranks-per-node", "2", "--scomoe-type", "seq"]
    arguments += ["--criterion", "moe_cross_entropy", "--optimizer", "moe_adam", "--lr", "5e-3"]
    arguments += ["--max-tokens", "128", "--max-update", "242", "--disable-validation"]
    return run([*arguments, *options], check=False)


@pytest.mark.parametrize("option", ["restore_file", "finetune_from_model", "continue_once"])
def test_a_named_file_that_is_not_there_is_no_start(option, tmp_path):
    named = {option: str(tmp_path / "checkpiont.pt")}
    options = {"restore_file": "checkpoint_last.pt", "save_dir": str(tmp_path), **named}
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(UserError) as caught:
        check_start(options)
    assert str(caught.value).startswith(f"{flag} ({tmp_path / 'checkpiont.pt'}): no such file")


def test_training_does_not_begin_from_scratch_for_want_of_a_file(tmp_path):
    save_dir = tmp_path / "run"
    done = train(save_dir, "--finetune-from-model", tmp_path / "checkpiont.pt")
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("scomoe-train: error: --finetune-from-model (")
    assert not list(save_dir.glob("*.pt"))


@pytest.mark.parametrize(
    ("name", "command"),
    [("scomoe-train", "user_dir.cli.train"), ("fairseq-train", "fairseq_cli.train")],
)
def test_a_resume_that_does_not_fit_says_which_option_would(name, command, tmp_path):
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    shutil.copy(CHECKPOINT, save_dir / "checkpoint_last.pt")
    done = train(save_dir, command=command)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{name}: error: --save-dir ({save_dir / 'checkpoint_last.pt'}) does")
    assert line.endswith("--encoder-embed-dim 16 would do")
    assert "architectures match" not in done.stderr
