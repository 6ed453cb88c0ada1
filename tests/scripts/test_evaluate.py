"""scomoe-evaluate and scomoe-report: every direction translated and scored, restarts included."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tests.support.trained import Trained
from user_dir.cli import evaluate, report, translate
from user_dir.translation.data_languages import with_languages

DIRECTIONS = ["en-de", "de-en", "en-fr", "fr-en"]


def run_evaluate(model: Trained, output: Path, *options: str) -> int:
    arguments = ["--path", model.checkpoint, "--corpus", model.corpus, "--output", output, "--cpu"]
    return evaluate.main([*map(str, arguments), "--max-len-b", "30", *options])


@pytest.fixture(scope="module")
def evaluation(multilingual: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluation") / "out"
    assert run_evaluate(multilingual, output) == 0
    return output


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def reference(model: Trained, direction: str) -> list[str]:
    source, target = direction.split("-")
    pair = direction if source == "en" else f"{target}-{source}"
    return lines_of(model.raw(pair, target))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_direction_s_translation_is_that_of_scomoe_translate(
    multilingual: Trained, evaluation: Path, tmp_path: Path, direction: str
) -> None:
    source, target = direction.split("-")
    pair = direction if source == "en" else f"{target}-{source}"
    arguments = ["--path", multilingual.checkpoint, "-s", source, "-t", target, "--cpu"]
    arguments += ["--input", multilingual.raw(pair, source), "--output", tmp_path / "out"]
    assert translate.main([*map(str, arguments), "--max-len-b", "30"]) == 0
    assert lines_of(evaluation / f"test.{direction}.{target}") == lines_of(tmp_path / "out")


def test_scores_are_those_of_sacrebleu(multilingual: Trained, evaluation: Path) -> None:
    scores = json.loads((evaluation / "scores.json").read_text())
    assert [row["name"] for row in scores["directions"]] == DIRECTIONS
    for row in scores["directions"]:
        translations = lines_of(evaluation / f"test.{row['name']}.{row['name'][-2:]}")
        references = reference(multilingual, row["name"])
        assert row["lines"] == len(references)
        assert row["bleu"] == BLEU().corpus_score(translations, [references]).score
        assert row["chrf"] == CHRF().corpus_score(translations, [references]).score
    into = [row["chrf"] for row in scores["directions"] if row["name"].endswith("-en")]
    means = {row["name"]: row for row in scores["means"]}
    assert means["mean into en"]["chrf"] == pytest.approx(sum(into) / 2)
    assert set(means) == {"mean from en", "mean into en", "mean all"}
    for name in "scores.md", "scores.tsv":
        text = (evaluation / name).read_text()
        assert f"{means['mean all']['chrf']:.1f}" in text
    assert "tok:13a" in (evaluation / "scores.md").read_text()


def test_fairseq_s_own_folder_is_evaluated_as_the_corpus_that_it_came_from(
    multilingual: Trained, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, output = shutil.copytree(multilingual.data, tmp_path / "data-bin"), tmp_path / "out"
    options = ("--corpus", str(data), "--directions", "en-de,de-en")
    assert run_evaluate(multilingual, output, *options) == 0
    rows = [
        json.loads((one / "scores.json").read_text())["directions"] for one in (evaluation, output)
    ]
    assert rows[0][:2] == rows[1]
    for name in "test.en-de.de", "test.de-en.en":
        assert lines_of(output / name) == lines_of(evaluation / name)
    assert report.main(["--evaluation", str(output)]) == 0
    assert reference(multilingual, "en-de")[5] in capsys.readouterr().out


def test_finished_directions_are_not_translated_again(
    multilingual: Trained, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in "settings.json", "test.en-de.de", "test.de-en.en", "test.fr-en.en":
        (output / name).write_bytes((evaluation / name).read_bytes())
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("test.*")}
    assert run_evaluate(multilingual, output) == 0
    assert "3 of 4 directions are done already" in capsys.readouterr().out
    for name, time in times.items():
        assert (output / name).stat().st_mtime_ns == time
    assert (output / "test.en-fr.fr").read_bytes() == (evaluation / "test.en-fr.fr").read_bytes()
    assert (output / "scores.json").read_bytes() == (evaluation / "scores.json").read_bytes()


def test_other_settings_do_not_mix_with_finished_translations(
    multilingual: Trained, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in "settings.json", "test.en-de.de":
        (output / name).write_bytes((evaluation / name).read_bytes())
    options = ["--beam", "1", "--directions", "en-de"]
    assert run_evaluate(multilingual, output, *options) == 2
    assert "beam changed" in capsys.readouterr().err
    assert run_evaluate(multilingual, output, *options, "--overwrite") == 0
    assert json.loads((output / "settings.json").read_text())["beam"] == 1


def test_processes_share_the_work_with_the_same_result(
    multilingual: Trained, evaluation: Path, tmp_path: Path
) -> None:
    assert run_evaluate(multilingual, tmp_path / "out", "--processes", "2") == 0
    for direction in DIRECTIONS:
        name = f"test.{direction}.{direction[-2:]}"
        assert (tmp_path / "out" / name).read_bytes() == (evaluation / name).read_bytes()


def test_a_bilingual_model_translates_its_one_direction(
    bilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_evaluate(bilingual, tmp_path / "out") == 0
    assert (tmp_path / "out" / "test.en-de.de").exists()
    assert run_evaluate(bilingual, tmp_path / "other", "--directions", "en-fr") == 2
    assert "the checkpoint translates en-de only" in capsys.readouterr().err


def test_a_direction_that_was_not_trained_is_translated_with_a_warning(
    multilingual: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source.txt"
    source.write_text("eins\n")
    for languages, is_warned in (("de", "fr"), True), (("de", "en"), False):
        arguments = ["--path", multilingual.checkpoint, "--input", source, "--cpu"]
        arguments += ["-s", languages[0], "-t", languages[1], "--output", tmp_path / "out.txt"]
        assert translate.main([str(argument) for argument in arguments]) == 0
        assert ("the model was not trained on de-fr, only on" in caplog.text) == is_warned
        caplog.clear()


def test_languages_that_a_checkpoint_does_not_name_are_those_of_its_data(
    bilingual: Trained, tmp_path: Path
) -> None:
    state = torch.load(bilingual.checkpoint, weights_only=True)
    data = tmp_path / "bin"
    shutil.copytree(bilingual.data, data, ignore=shutil.ignore_patterns("*fr*"))
    task = state["cfg"]["task"]
    task = task if isinstance(task, dict) else vars(task)
    task |= {"source_lang": None, "target_lang": None, "data": str(data)}
    torch.save(state, tmp_path / "unnamed.pt")
    named = with_languages(task, None)
    assert (named["source_lang"], named["target_lang"]) == ("en", "de")
    source = tmp_path / "source.txt"
    source.write_text("one\n")
    arguments = ["--path", tmp_path / "unnamed.pt", "--input", source, "--cpu"]
    arguments += ["--output", tmp_path / "out.txt", "--pre-tokenized"]
    assert translate.main([str(argument) for argument in arguments]) == 0
    assert (tmp_path / "out.txt").read_text().count("\n") == 1


def test_mistakes_are_named_and_nothing_is_touched(
    multilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert run_evaluate(multilingual, tmp_path) == 2
    assert "--output" in capsys.readouterr().err
    assert run_evaluate(multilingual, tmp_path / "out", "--directions", "en-xx") == 2
    assert "the checkpoint knows de, en, fr" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex"}


def test_the_report_shows_examples_pooled_scores_and_the_training_speed(
    multilingual: Trained, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    log = tmp_path / "train.log"
    inner = {"nll_loss": "3.1", "wps": "70.5", "num_updates": "50", "wall": "12"}
    log.write_text(f"noise\n2026 | INFO | train_inner | {json.dumps(inner)}\n")
    arguments = ["--evaluation", evaluation, "--train-log", log, "--examples", "3"]
    assert report.main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    translations = [
        line for d in DIRECTIONS for line in lines_of(evaluation / f"test.{d}.{d[-2:]}")
    ]
    references = [line for d in DIRECTIONS for line in reference(multilingual, d)]
    assert f"{CHRF().corpus_score(translations, [references]).score:.1f}" in out
    assert "training: 50 updates in 12 s, 70 tokens/s" in out
    assert "tok:13a" in out


def test_the_report_names_what_is_missing(
    evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert report.main(["--evaluation", str(tmp_path)]) == 2
    assert "--evaluation" in capsys.readouterr().err
    arguments = ["--evaluation", str(evaluation), "--train-log", str(tmp_path / "train.log")]
    assert report.main(arguments) == 2
    assert "train.log" in capsys.readouterr().err
