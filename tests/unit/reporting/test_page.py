"""The page of a report: whole in one file, whatever there is of the runs."""

import fcntl
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pages import Page, check_accessible, look_at, needs_browser
from tests.support.run_folders import write_evaluation, write_run
from user_dir.errors import UserError
from user_dir.reporting.curves import curves
from user_dir.reporting.page import all_sections, render
from user_dir.reporting.runs import read_runs
from user_dir.reporting.statistics_file import STATISTICS
from user_dir.reporting.tables import headline
from user_dir.reporting.translations import mark_differences


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run = write_run(folder / "model")
    write_evaluation(folder / "evaluation")
    return render(read_runs([run], []))


def test_every_figure_is_drawn_and_said_in_words(whole):
    page = Page(whole)
    drawings = [a for a in page.all("div") if a.get("class") == "drawing"]
    assert len(drawings) == len(page.all("figure")) == len(page.all("svg"))
    assert all(one["role"] == "img" and len(one["aria-label"]) > 40 for one in drawings)
    keys = {one["data-figure"] for one in drawings}
    expected = {"nll", "loss", "bleu", "speed", "balance", "busiest", "overflow", "entropy", "lr"}
    assert keys >= {f"training-{key}" for key in expected}
    assert keys >= {"load-0-load-encoder.moe0", "load-0-load-encoder.moe1", "reach-0-bytes"}
    assert keys >= {"languages-0-languages-source-encoder.moe0", "clusters-0-clusters"}
    assert "scores-scores" in keys
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)


def test_the_page_needs_nothing_else_and_is_small(whole):
    assert len(whole.encode()) < 2_000_000
    page = Page(whole)
    links = [a.get(name) for _, a in page.elements for name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    assert "@import" not in whole.split("<script")[0]
    (specs,) = re.findall(r'<script type="application/json" id="specs">(.*?)</script>', whole)
    assert len(json.loads(specs)) == len(page.all("figure"))


def test_texts_of_users_stay_texts(whole):
    page = Page(whole)
    assert "<script>alert(1)</script>" in page.text
    assert "two <b>big</b> trees & a fox" in page.text
    assert "scomoe-train </script> --arch scomoe_tiny" in page.text


def test_scores_have_intervals_and_nothing_is_missing(whole):
    page = Page(whole)
    assert "Missing here" not in page.text
    assert re.search(r"all 8 [\d.]+ ± [\d.]+", page.text)
    assert "ended after 40 updates" in page.text


def test_a_run_in_progress_is_shown_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path / "model", updates=20)
    statistics = run / STATISTICS
    kept = [line for line in statistics.read_text().splitlines() if '"valid"' not in line]
    statistics.write_text("\n".join(kept) + '\n{"kind":"train","upda')
    with (run / "scomoe-train.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (running,) = read_runs([run], [])
    assert running.state == "running, 20 updates so far"
    assert "Curves of validation: there has been none." in running.missing
    assert running.missing[-1].startswith("Scores and translations: there is no evaluation")
    assert {"nll", "overflow"} <= {figure.key for figure in curves([running])}
    (stopped,) = read_runs([run], [])
    assert stopped.state == "ended after 20 of 40 updates; the same command goes on"


def test_a_run_that_ended_before_its_first_record_says_so(tmp_path):
    run = write_run(tmp_path / "model")
    first = (run / STATISTICS).read_text().splitlines()[0]
    (run / STATISTICS).write_text(first + "\n")
    text = Page(render(read_runs([run], []))).text
    assert "Curves of training: no update is recorded yet" in text
    assert "Nothing is recorded yet." in text


def test_without_statistics_the_log_gives_curves(tmp_path):
    (tmp_path / "train.log").write_text(
        'x | train_inner | {"num_updates": "5", "loss": "4.1", "nll_loss": "3.5", "wps": "700"}\n'
        'x | valid | {"valid_num_updates": "5", "valid_loss": "4", "valid_nll_loss": "3.2"}\n'
    )
    runs = read_runs([tmp_path], [])
    assert runs[0].missing[0].startswith("Everything about experts: moe_statistics.jsonl cannot")
    sections = {section.key: section for section in all_sections(runs)}
    assert [figure.key for figure in sections["training"].figures] == ["nll", "loss", "speed"]
    assert not sections["load-0"].figures
    assert ("3.20", "bits a token in validation") in headline(runs[0])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds neither"):
        read_runs([tmp_path], [])
    run = write_run(tmp_path / "model")
    with pytest.raises(UserError, match="named twice"):
        read_runs([run, run], [])
    with pytest.raises(UserError, match="--evaluation is given 2 times"):
        read_runs([run], [run, run])


def test_several_runs_stand_together_with_what_differs(tmp_path):
    runs = [write_run(tmp_path / name / "model", speed=s) for name, s in (("a", 900), ("b", 800))]
    evaluation = write_evaluation(tmp_path / "of_b")
    other = write_evaluation(tmp_path / "of_a", translations={"en-de": ["ein Haus"] * 4})
    html = render(read_runs(runs, [other, evaluation]))
    page = Page(html)
    assert "--lr [0.0009] [0.0008]" in page.text
    assert (
        "--save-dir" not in page.text.split("Options in which they differ")[1].split("Training")[0]
    )
    (nll,) = [a for a in page.all("div") if a.get("data-figure") == "training-nll"]
    assert "a/model, training: 8 at update 10" in nll["aria-label"]
    assert "b/model, validation: 2 at update 40" in nll["aria-label"]
    assert "en-de, a/model" in page.text and "de-en, b/model" in page.text


@given(st.text(alphabet="ab c,é猫", max_size=30), st.text(alphabet="ab c,é猫", max_size=30))
def test_marks_hold_the_whole_of_both_texts(translation, reference):
    marked = mark_differences(translation, reference)
    joint = " " if " " in translation.strip() or " " in reference.strip() else ""
    for text, kind in (translation, "added"), (reference, "missing"):
        kept = joint.join(piece for of, piece in marked if of in ("same", kind))
        assert kept.split() == text.split() if joint else kept == text


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_a_browser_shows_every_figure_without_an_error(whole, tmp_path, width, dark):
    shown = look_at(whole, tmp_path, width=width, dark=dark)
    assert shown.count("vega-embed") >= whole.count("<figure id=") > 10


@pytest.mark.parametrize(
    ("form", "begins"), [("pdf", b"%PDF"), ("svg", b"<svg"), ("png", b"\x89PNG")]
)
def test_a_figure_is_a_file_for_a_paper(tmp_path, form, begins):
    (run,) = read_runs([write_run(tmp_path / "model")], [])
    figure = curves([run])[0]
    drawn = figure.drawn(form)
    assert drawn.startswith(begins) and b"currentColor" not in drawn


def test_everybody_can_read_the_page(whole):
    check_accessible(Page(whole))


def test_bleu_says_nothing_where_every_reference_is_shorter_than_what_it_counts(tmp_path):
    run = write_run(tmp_path / "model")
    scored = write_evaluation(tmp_path / "evaluation")
    for language in "en", "de":
        raw = scored / "corpus" / "raw" / f"test.en-de.{language}"
        raw.write_text("".join(f"{line.split()[0]}\n" for line in raw.read_text().splitlines()))
    page = Page(render(read_runs([run], [scored])))
    assert "–: no reference has four words" in page.text
    assert not [a for a in page.all("div") if a.get("data-figure") == "scores-scores"]


def test_directions_are_kept_of_the_last_fifth_alone(tmp_path):
    folder = write_run(tmp_path / "model", updates=120)  # 12 records
    (run,) = read_runs([folder], [])
    has_directions = ["by_direction" in r["layers"]["encoder.moe0"] for r in run.train]
    assert has_directions == [False] * 10 + [True] * 2
    assert run.late == run.train[10:]
