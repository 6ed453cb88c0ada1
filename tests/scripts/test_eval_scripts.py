"""The eval scripts: what they print, refuse and run."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.checkpoints import with_options
from tests.support.commands import ROOT, environment
from tests.support.trained import Trained

FOLDER = ROOT / "eval_scripts"
SCRIPTS = [
    "eval_on_wmt-en-fr",
    "eval_large_on_wmt-en-fr",
    "eval_on_opus",
    "eval_large_on_opus",
]


def run_script(
    name: str, *arguments: str | Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", FOLDER / f"{name}.sh", *map(str, arguments)],
        env={**environment(), **(variables or {})},
        capture_output=True,
        text=True,
        timeout=240,
    )


def dry_run(name: str, *arguments: str | Path, **options) -> dict[str, str]:
    """The options of the final command, which are pairs but for those at the end."""
    done = run_script(name, "--dry-run", *arguments, **options)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    options_at = words.index("user_dir.cli.evaluate") + 1
    return dict(zip(words[options_at::2], [*words[options_at + 1 :: 2], ""], strict=False))


def fake_checkpoint(path: Path, scomoe_type: str | None) -> Path:
    """A checkpoint that was trained with another type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return with_options(path, scomoe_type=scomoe_type)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_an_example_that_the_script_takes(name: str, tmp_path: Path) -> None:
    shown = run_script(name, "--help")
    assert shown.returncode == 0
    examples = shown.stdout.split("Example:\n")[1].replace("\\\n", " ").strip().splitlines()
    assert len(examples) == 2
    checkpoint = fake_checkpoint(tmp_path / "checkpoint_best.pt", None)
    for example in examples:
        words = [word for word in shlex.split(example) if word != "sbatch"]
        assert words[0] == f"eval_scripts/{name}.sh"
        options = dry_run(name, *words[1:], "--save_dir", tmp_path)
        assert options["--path"] == str(checkpoint)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "given",
    [
        "--save_dir {0} -subset valid -capacity_factor -1 --r1 0.1 --r2 0.3",
        "-d {0} -s valid -c -1 -r1 0.1 -r2 0.3",
        "--save-dir {0} --subset valid --capacity-factor -1 --ratio1 0.1 --ratio2 0.3",
    ],
)
def test_the_options_of_the_release_are_understood(name: str, given: str, tmp_path: Path) -> None:
    checkpoint = fake_checkpoint(tmp_path / "checkpoint_best.pt", "seq")
    options = dry_run(name, *given.format(tmp_path).split(), "--data", "corpus")
    assert options["--path"] == str(checkpoint)
    assert options["--corpus"] == "corpus"
    assert options["--subset"] == "valid"
    assert options["--output"] == str(tmp_path / "evaluation" / "checkpoint_best.valid")
    overrides = {"ratio1": 0.1, "ratio2": 0.3, "scomoe_inference_partition": "quota"}
    overrides["moe_eval_capacity_token_fraction"] = -1.0
    assert options["--model-overrides"] == str(overrides)


@pytest.mark.parametrize(
    ("scomoe_type", "arguments", "overrides"),
    [
        ("seq", "", {}),
        ("seq", "--r2 0.5", {"ratio1": 0.0, "ratio2": 0.5, "scomoe_inference_partition": "quota"}),
        ("feat", "", {}),
        ("feat", "--r1 0.25", {"ratio1": 0.25}),
        ("none", "--r1 0.2 --r2 0.5", {}),
        (None, "-capacity_factor 0.5", {"moe_eval_capacity_token_fraction": 0.5}),
    ],
)
def test_ratios_depend_on_how_the_model_was_trained(
    scomoe_type: str | None, arguments: str, overrides: dict[str, float], tmp_path: Path
) -> None:
    fake_checkpoint(tmp_path / "checkpoint_last.pt", scomoe_type)
    options = dry_run(SCRIPTS[0], "-d", tmp_path, "--data", "x", *arguments.split())
    assert options["--path"].endswith("checkpoint_last.pt")
    assert options["--model-overrides"] == str(overrides)


def test_opus_is_evaluated_in_the_directions_that_have_the_set(tmp_path: Path) -> None:
    fake_checkpoint(tmp_path / "checkpoint_best.pt", None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "test_pairs.txt").write_text("en-de,de-en\n")
    arguments = ["-d", tmp_path, "--data", tmp_path]
    assert dry_run("eval_on_opus", *arguments)["--directions"] == "en-de,de-en"
    chosen = dry_run("eval_on_opus", *arguments, "--directions", "de-en")
    assert chosen["--directions"] == "de-en"
    assert "--directions" not in dry_run("eval_on_wmt-en-fr", *arguments)


def test_a_task_of_several_nodes_takes_its_share(tmp_path: Path) -> None:
    fake_checkpoint(tmp_path / "checkpoint_best.pt", None)
    arguments = ["-d", tmp_path, "--data", "x", "--output", "out", "--directions", "a-b,c-d,e-f"]
    shares = []
    for task in "0", "1":
        variables = {"EVALUATION_PARTS": "2", "SLURM_PROCID": task}
        options = dry_run("eval_large_on_opus", *arguments, variables=variables)
        shares.append((options["--output"], options["--directions"]))
    assert shares == [("out.part-0", "a-b,e-f"), ("out.part-1", "c-d")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--data", "{corpus}"), "--save_dir"),
        (("-d", "{here}"), "--data"),
        (("-d", "{here}", "--data", "{here}"), "--data ({here})"),
        (("-d", "{corpus}", "--data", "{corpus}"), "--save_dir ({corpus})"),
        (("-d", "{here}", "--data", "{corpus}", "-subset", "train"), "-subset"),
        (("-d", "{here}", "--data", "{corpus}", "-c", "half"), "-capacity_factor"),
        (("-d", "{here}", "--data", "{corpus}", "--r1", "a"), "--r1"),
        (("-d", "{here}", "--data", "{corpus}", "--processes", "0"), "--processes"),
        (("-d", "{here}", "--data", "{corpus}", "--precision", "8"), "--precision"),
        (("-d",), "-d"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "bin").mkdir(parents=True)
    fake_checkpoint(tmp_path / "checkpoint_best.pt", None)
    places = {"corpus": corpus, "here": tmp_path}
    done = run_script("eval_on_opus", *(part.format(**places) for part in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("eval_on_opus: error: ")
    assert named.format(**places) in done.stderr


def test_a_file_that_is_no_checkpoint_ends_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "checkpoint_best.pt").write_text("nothing")
    done = run_script("eval_on_opus", "-d", tmp_path, "--data", tmp_path, "--cpu")
    assert done.returncode == 2
    assert "not a checkpoint" in done.stderr


def test_a_multilingual_model_is_translated_and_scored(
    multilingual: Trained, tmp_path: Path
) -> None:
    arguments = ["-d", multilingual.checkpoint, "--data", multilingual.corpus, "-subset", "valid"]
    arguments += ["--output", tmp_path / "scores", "--cpu", "--processes", "2", "--beam", "1"]
    arguments += ["-capacity_factor", "0.5", "--directions", "en-de,de-en"]
    done = run_script("eval_on_opus", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert [row["name"] for row in scores["directions"]] == ["en-de", "de-en"]
    settings = json.loads((tmp_path / "scores" / "settings.json").read_text())
    assert settings["model_overrides"] == {"moe_eval_capacity_token_fraction": 0.5}
    assert "2 of 2 directions are done already" in run_script("eval_on_opus", *arguments).stdout


@pytest.mark.parametrize("name", ["lib", *SCRIPTS])
def test_scripts_are_clean(name: str) -> None:
    script = FOLDER / f"{name}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--external-sources", script], check=True)
