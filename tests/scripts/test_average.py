"""scomoe-average: the mean of the weights, of one model only, in a file that loads."""

from pathlib import Path

import pytest
import torch

from tests.support.commands import run
from tests.support.trained import Trained
from user_dir.checkpoints.averaging import average_models
from user_dir.cli import average, translate


def checkpoint(path: Path, **tensors: torch.Tensor) -> Path:
    """A file as fairseq writes them, with these tensors."""
    cfg = {"task": {"_name": "translation"}, "model": {"_name": "transformer"}}
    state = {"args": None, "cfg": cfg, "model": tensors, "optimizer_history": [{}]}
    state["extra_state"] = {"train_iterator": {"epoch": 3}}
    torch.save({**state, "last_optimizer_state": {"state": torch.ones(9)}}, path)
    return path


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def run_average(*arguments: str | Path) -> int:
    return average.main([str(argument) for argument in arguments])


def error_of(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    assert run_average(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scomoe-average: error: ")
    return line


def test_floats_are_averaged_and_the_rest_is_copied(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = [torch.randn(3, 5) for _ in range(3)]
    layout = torch.tensor([2, 4])
    paths = [
        checkpoint(tmp_path / f"{i}.pt", weight=w, moe_layout=layout, double=w.double() ** 2)
        for i, w in enumerate(weights)
    ]
    out = tmp_path / "out.pt"
    assert run_average("--inputs", *paths, "--output", out) == 0
    model = load(out)["model"]
    torch.testing.assert_close(model["weight"], sum(weights) / 3)
    torch.testing.assert_close(model["double"], sum(w.double() ** 2 for w in weights) / 3)
    assert model["moe_layout"].equal(layout)
    assert model["moe_layout"].dtype == torch.int64


def test_half_precision_is_summed_in_float32() -> None:
    # In bfloat16 256 + 1 is 256, and in float16 60000 + 60000 overflows.
    values = [256.0] + [1.0] * 7
    models = {str(i): {"w": torch.tensor([v]).bfloat16()} for i, v in enumerate(values)}
    averaged = average_models(models)["w"]
    assert averaged.dtype == torch.bfloat16
    assert averaged.item() == torch.tensor(sum(values) / 8).bfloat16().item()
    large = {str(i): {"w": torch.tensor([60000.0]).half()} for i in range(4)}
    assert average_models(large)["w"].item() == torch.tensor(60000.0).half().item()


def test_shared_tensors_stay_shared_and_others_apart(tmp_path: Path) -> None:
    paths = []
    for index in range(2):
        embedding = torch.randn(400, 8)
        tensors = {"embed": embedding, "output": embedding, "other": embedding.clone()}
        paths.append(checkpoint(tmp_path / f"{index}.pt", **tensors))
    out = tmp_path / "out.pt"
    assert run_average("--inputs", *paths, "--output", out) == 0
    model = load(out)["model"]
    assert model["embed"].data_ptr() == model["output"].data_ptr()
    assert model["embed"].data_ptr() != model["other"].data_ptr()
    assert model["embed"].equal(model["other"])


def test_what_differs_is_named_by_file_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ones = torch.ones(2, 3)
    first = checkpoint(tmp_path / "first.pt", a=ones, b=torch.tensor([2, 2]))
    others = {
        "missing": ({"a": ones}, 'missing.pt has no "b"'),
        "extra": ({"a": ones, "b": torch.tensor([2, 2]), "c": ones}, 'first.pt has no "c"'),
        "shape": ({"a": ones.T, "b": torch.tensor([2, 2])}, '"a" is float32 [3, 2]'),
        "dtype": ({"a": ones.half(), "b": torch.tensor([2, 2])}, '"a" is float16 [2, 3]'),
        "layout": ({"a": ones, "b": torch.tensor([1, 4])}, '"b" is [1, 4], but [2, 2] in'),
    }
    out = tmp_path / "out.pt"
    out.write_text("old")
    for name, (tensors, message) in others.items():
        other = checkpoint(tmp_path / f"{name}.pt", **tensors)
        error = error_of(capsys, "--inputs", first, other, "--output", out)
        assert message in error
        assert f"{name}.pt" in error
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_the_last_checkpoints_are_the_last_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = [f"checkpoint{i}" for i in (8, 9, 10)] + ["checkpoint_1_900", "checkpoint_2_1000"]
    for value, name in enumerate([*names, "checkpoint_last", "checkpoint_best"]):
        checkpoint(tmp_path / f"{name}.pt", w=torch.tensor([float(value)]))
    out = tmp_path / "out.pt"
    last_two = ("--save-dir", tmp_path, "--last", "2", "--output", out)
    assert run_average(*last_two) == 0
    assert load(out)["model"]["w"].item() == 1.5
    assert run_average(*last_two, "--by", "updates") == 0
    assert load(out)["model"]["w"].item() == 3.5
    capsys.readouterr()
    error = error_of(capsys, "--save-dir", tmp_path, "--last", "4", "--output", out)
    assert "--last 4" in error
    assert "holds 3 checkpoints of epochs" in error
    assert "--last" in error_of(capsys, "--save-dir", tmp_path, "--output", out)
    assert load(out)["model"]["w"].item() == 3.5


def test_a_file_that_is_missing_or_no_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = checkpoint(tmp_path / "good.pt", w=torch.ones(1))
    out = tmp_path / "out.pt"
    missing = tmp_path / "missing.pt"
    assert f"--inputs ({missing})" in error_of(capsys, "--inputs", good, missing, "--output", out)
    half = tmp_path / "half.pt"
    half.write_bytes(good.read_bytes()[:500])
    assert f"--inputs ({half})" in error_of(capsys, "--inputs", good, half, "--output", out)
    assert not out.exists()


def test_an_average_over_one_of_its_inputs(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"{i}.pt", w=torch.full((999,), float(i))) for i in range(2)]
    assert run_average("--inputs", *paths, "--output", paths[0]) == 0
    assert load(paths[0])["model"]["w"].eq(0.5).all()


def test_an_averaged_model_translates_and_has_no_optimizer_state(
    bilingual: Trained, tmp_path: Path
) -> None:
    last_two = ("--save-dir", bilingual.save_dir, "--last", "2", "--by", "updates")
    out = tmp_path / "averaged.pt"
    assert run_average(*last_two, "--output", out) == 0
    state = load(out)
    assert state["last_optimizer_state"] is None
    assert out.stat().st_size < bilingual.checkpoint.stat().st_size / 2
    assert state["model"]["moe_layout"].tolist() == [2, 2]
    hypotheses = translations(bilingual, out, tmp_path)
    command = ["fairseq-generate", bilingual.data, "--user-dir", "user_dir", "--cpu"]
    command += ["--task", "scomoe_translation", "-s", "en", "-t", "de", "--path", out]
    command += ["--post-process", "sentencepiece", "--required-batch-size-multiple", "1"]
    rows = [line.split("\t") for line in run(command).stdout.splitlines() if line[:2] == "D-"]
    assert hypotheses == [row[2] for row in sorted(rows, key=lambda row: int(row[0][2:]))]


def test_the_average_of_one_checkpoint_is_that_model(bilingual: Trained, tmp_path: Path) -> None:
    out = tmp_path / "same.pt"
    assert run_average("--inputs", bilingual.checkpoint, "--output", out) == 0
    expected = translations(bilingual, bilingual.checkpoint, tmp_path)
    assert translations(bilingual, out, tmp_path) == expected


def translations(model: Trained, path: Path, folder: Path) -> list[str]:
    output = folder / "translations.txt"
    arguments = ["--path", path, "--input", model.raw("en-de", "en"), "--output", output]
    assert translate.main([str(argument) for argument in arguments]) == 0
    return output.read_text(encoding="utf-8").splitlines()
