"""scomoe-evaluate --test-set: one's own files, FLORES-200 and NTREX-128 in their own folders."""

import json
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from tests.support.trained import Trained
from user_dir.cli import compare, evaluate

LINES = 6


def run_evaluate(model: Trained, output: Path, test_set: str, *options: str) -> int:
    arguments = ["--path", str(model.checkpoint), "--test-set", test_set, "--output", str(output)]
    return evaluate.main([*arguments, "--cpu", "--beam", "1", "--max-len-b", "9", *options])


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def texts(model: Trained, language: str) -> list[str]:
    return lines_of(model.raw("en-de", language))[:LINES]


@pytest.fixture(scope="module")
def files(multilingual: Trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source and two references, as the option names them."""
    folder = tmp_path_factory.mktemp("files")
    german = texts(multilingual, "de")
    paths = [
        write(folder / "source.txt", texts(multilingual, "en")),
        write(folder / "first.txt", german),
        write(folder / "second.txt", german[1:] + german[:1]),
    ]
    return f"own={','.join(map(str, paths))}"


@pytest.fixture(scope="module")
def evaluation(multilingual: Trained, files: str, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("evaluation") / "out"
    assert run_evaluate(multilingual, output, files, "--directions", "en-de") == 0
    return output


def test_files_are_scored_against_all_their_references(
    multilingual: Trained, evaluation: Path
) -> None:
    german = texts(multilingual, "de")
    translations = lines_of(evaluation / "own.en-de.de")
    scores = json.loads((evaluation / "scores.json").read_text())
    references = [german, german[1:] + german[:1]]
    assert scores["directions"][0]["bleu"] == BLEU().corpus_score(translations, references).score
    assert "nrefs:2" in scores["signatures"]["BLEU"]
    header, *rows = [line.split("\t") for line in lines_of(evaluation / "segments.tsv")]
    assert header == ["lp", "doc", "line", "src", "mt", "ref", "ref2"]
    columns = list(map(list, zip(*rows, strict=True)))
    assert columns[:3] == [["en-de"] * LINES, ["own"] * LINES, list(map(str, range(1, LINES + 1)))]
    assert columns[3:] == [texts(multilingual, "en"), translations, *references]


def test_such_an_evaluation_goes_on_and_is_compared_wherever_it_lies(
    multilingual: Trained, evaluation: Path, files: str, tmp_path: Path, capsys
) -> None:
    assert run_evaluate(multilingual, evaluation, files, "--directions", "en-de") == 0
    assert "1 of 1 directions are done already" in capsys.readouterr().out
    moved = tmp_path / "moved"
    evaluation.rename(moved)
    try:
        arguments = ["--names", "a,b", "--samples", "10"]
        assert compare.main([str(moved), str(moved), *arguments]) == 0
    finally:
        moved.rename(evaluation)
    assert f" {LINES} " in capsys.readouterr().out


def test_another_test_set_of_the_same_name_is_not_mixed_in(
    multilingual: Trained, evaluation: Path, files: str, capsys
) -> None:
    source, first, second = files.split(",")
    swapped = ",".join([source, second, first])
    assert run_evaluate(multilingual, evaluation, swapped, "--directions", "en-de") == 2
    assert "test_set changed" in capsys.readouterr().err


def test_flores_is_read_as_published_with_its_documents(
    multilingual: Trained, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "flores200_dataset"
    for code, language in ("eng_Latn", "en"), ("deu_Latn", "de"):
        write(folder / "devtest" / f"{code}.devtest", texts(multilingual, language))
    rows = [f"https://{'a' if number < 4 else 'b'}.org\twiki" for number in range(LINES)]
    write(folder / "metadata_devtest.tsv", ["URL\tdomain", *rows])
    output = tmp_path / "out"
    assert run_evaluate(multilingual, output, f"flores={folder}") == 0
    assert "left out, for flores has not both languages: en-fr, fr-en" in capsys.readouterr().out
    rows = [line.split("\t") for line in lines_of(output / "segments.tsv")][1:]
    documents = [("https://a.org", str(line)) for line in (1, 2, 3, 4)]
    documents += [("https://b.org", str(line)) for line in (1, 2)]
    assert [(row[1], row[2]) for row in rows] == 2 * documents
    assert {row[0] for row in rows} == {"en-de", "de-en"}
    assert run_evaluate(multilingual, output, f"flores={folder}", "--directions", "en-fr") == 2
    assert "has not both languages of en-fr" in capsys.readouterr().err


def test_ntrex_is_read_as_published_with_second_references(
    multilingual: Trained, tmp_path: Path
) -> None:
    german, english = texts(multilingual, "de"), texts(multilingual, "en")
    texts_by_name = {"src.eng": english, "ref.deu": german, "ref-2.deu": german[::-1]}
    texts_by_name |= {"ref.eng-GB": english[::-1], "ref.fra": german}
    for name, lines in texts_by_name.items():
        write(tmp_path / "NTREX" / "NTREX-128" / f"newstest2019-{name}.txt", lines)
    write(tmp_path / "NTREX" / "DOCUMENT_IDS.tsv", [f"document.{n // 2}" for n in range(LINES)])
    output = tmp_path / "out"
    given = f"ntrex={tmp_path / 'NTREX'}"
    assert run_evaluate(multilingual, output, given, "--directions", "en-de,en-fr") == 0
    scores = json.loads((output / "scores.json").read_text())
    assert "nrefs:var" in scores["signatures"]["BLEU"]
    rows = [line.split("\t") for line in lines_of(output / "segments.tsv")][1:]
    of_german = [row for row in rows if row[0] == "en-de"]
    assert [row[5:] for row in of_german] == list(map(list, zip(german, german[::-1], strict=True)))
    assert [row[1] for row in of_german] == [f"document.{n // 2}" for n in range(LINES)]


def test_what_does_not_fit_is_refused_by_name(
    multilingual: Trained, evaluation: Path, files: str, tmp_path: Path, capsys
) -> None:
    source, reference = files.removeprefix("own=").split(",")[:2]
    short = write(tmp_path / "short.txt", ["eins", "zwei"])
    empty = write(tmp_path / "empty.txt", [])
    for code in "eng_Latn", "zho_Hans", "zho_Hant":
        write(tmp_path / "flores" / "devtest" / f"{code}.devtest", ["one"])
    mistakes = {
        f"x={source},{short}": f"{source} has {LINES} lines but {short} has 2",
        f"x={source},{reference},{short}": f"{short} has 2",
        f"x={source},{empty}": f"{empty}: the file has no lines",
        f"x={source},{tmp_path / 'none'}": f"{tmp_path / 'none'}: no such file",
        f"x={source}": f"--test-set x ({source}): no such folder",
        f"x={evaluation}": "neither FLORES-200",
    }
    for test_set, message in mistakes.items():
        assert run_evaluate(multilingual, tmp_path / "out", test_set, "--directions", "en-de") == 2
        assert message in capsys.readouterr().err, test_set
    assert run_evaluate(multilingual, tmp_path / "out", f"x={source},{reference}") == 2
    assert "two files are of one direction" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_translation_is_refused_by_name(
    multilingual: Trained, evaluation: Path, files: str, capsys
) -> None:
    path = evaluation / "own.en-de.de"
    whole = path.read_bytes()
    path.write_bytes(b"")
    try:
        assert run_evaluate(multilingual, evaluation, files, "--directions", "en-de") == 2
    finally:
        path.write_bytes(whole)
    assert f"{path} has 0 lines, but the own set of en-de has {LINES}" in capsys.readouterr().err
