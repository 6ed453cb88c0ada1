"""scomoe-translate: what fairseq's own commands say, one line for each line, and its errors."""

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.support.commands import run
from tests.support.trained import MAX_POSITIONS, Trained
from tests.support.translating import error_of, translate_file, translate_text
from user_dir.cli import translate
from user_dir.text.subwords import Subwords
from user_dir.translation.batching import BatchLimits, make_batches


@pytest.fixture(scope="module")
def english(bilingual: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The English test set, where results can be written beside it."""
    source = tmp_path_factory.mktemp("english") / "source.txt"
    source.write_bytes(bilingual.raw("en-de", "en").read_bytes())
    return source


@pytest.fixture(scope="module")
def german(bilingual: Trained, english: Path) -> list[str]:
    """What the bilingual model makes of the English test set."""
    return translate_file(bilingual, english, "--cpu")


def fairseq_hypotheses(output: str, tag: str) -> list[str]:
    rows = [line.split("\t") for line in output.splitlines() if line.startswith(f"{tag}-")]
    return [row[-1] for row in sorted(rows, key=lambda row: int(row[0].partition("-")[2]))]


def test_translations_are_those_of_fairseq_generate(bilingual: Trained, german: list[str]) -> None:
    command = [sys.executable, "-m", "fairseq_cli.generate", bilingual.data, "--cpu"]
    command += ["--user-dir", "user_dir", "--task", "scomoe_translation", "-s", "en", "-t", "de"]
    command += ["--path", bilingual.checkpoint, "--required-batch-size-multiple", "1"]
    command += ["--post-process", "sentencepiece", "--max-tokens", "300"]
    assert german == fairseq_hypotheses(run(command).stdout, "D")
    assert len(german) == 25
    assert len(set(german)) > 12  # the model distinguishes its inputs


def test_multilingual_translations_are_those_of_fairseq_interactive(
    multilingual: Trained, tmp_path: Path
) -> None:
    lines = multilingual.raw("en-fr", "en").read_text(encoding="utf-8").splitlines()
    subwords = Subwords((multilingual.corpus / "spm.model").read_bytes())
    source = tmp_path / "pieces.txt"
    source.write_text("".join(f"{line}\n" for line in subwords.encode(lines)), encoding="utf-8")
    command = [sys.executable, "-m", "fairseq_cli.interactive", multilingual.data, "--cpu"]
    command += ["--user-dir", "user_dir", "--task", "scomoe_multilingual_translation"]
    command += ["--lang-dict", multilingual.data / "langs.txt", "--lang-pairs", "en-fr"]
    command += ["-s", "en", "-t", "fr", "--encoder-langtok", "tgt", "--input", source]
    command += ["--path", multilingual.checkpoint, "--buffer-size", "100", "--batch-size", "4"]
    expected = fairseq_hypotheses(run(command).stdout, "H")
    languages = ("-s", "en", "-t", "fr")
    assert translate_file(multilingual, source, *languages, "--pre-tokenized") == expected
    assert len(expected) == len(lines)
    raw = translate_text(multilingual, tmp_path, "\n".join(lines), *languages)
    assert raw == [subwords.decode(pieces) for pieces in expected]
    assert (
        translate_file(multilingual, source, "-s", "en", "-t", "de", "--pre-tokenized") != expected
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--max-tokens", "60"),
        ("--max-tokens", "1"),
        ("--processes", "2"),
        ("--processes", "4", "--spread-experts", "--max-tokens", "200"),
        ("--data", "the same"),
    ],
)
def test_translations_do_not_depend_on_batches_or_processes(
    bilingual: Trained, english: Path, german: list[str], options: tuple[str, ...]
) -> None:
    given = [bilingual.data if option == "the same" else option for option in options]
    assert translate_file(bilingual, english, *given) == german


def test_a_length_limit_by_the_source_counts_the_sentence_alone(
    bilingual: Trained, english: Path
) -> None:
    limit = ("--max-len-a", "0.6", "--max-len-b", "1", "--pre-tokenized")
    subwords = Subwords((bilingual.corpus / "spm.model").read_bytes())
    pieces = subwords.encode(english.read_text(encoding="utf-8").splitlines())
    source = english.with_name("pieces.txt")
    source.write_text("".join(f"{line}\n" for line in pieces), encoding="utf-8")
    together = translate_file(bilingual, source, *limit)
    assert together == translate_file(bilingual, source, *limit, "--batch-size", "1")
    for line, hypothesis in zip(pieces, together, strict=True):
        assert len(hypothesis.split()) <= int(0.6 * (len(line.split()) + 1) + 1)


def test_an_ensemble_of_a_model_with_itself_is_that_model(
    bilingual: Trained, english: Path, german: list[str]
) -> None:
    both = f"{bilingual.checkpoint}:{bilingual.checkpoint}"
    assert translate_file(bilingual, english, "--path", both) == german


def test_clusters_of_tokens_translate_greedily_and_balanced(
    clustered: Trained, english: Path, tmp_path: Path
) -> None:
    greedy = translate_file(clustered, english)
    assert len(greedy) == 25
    assert translate_file(clustered, english, "--max-tokens", "30") == greedy
    balanced = ("--model-overrides", "{'scomoe_inference_routing': 'balanced'}")
    assert len(translate_file(clustered, english, *balanced)) == 25
    other = "{'ratio1': 0.5, 'ratio2': 0.25}"
    arguments = ["--path", str(clustered.checkpoint), "--input", str(english), "--cpu"]
    assert translate.main([*arguments, "--model-overrides", other]) == 2


def test_bfloat16_translates_every_line(bilingual: Trained, english: Path) -> None:
    assert len(translate_file(bilingual, english, "--bf16", "--beam", "2")) == 25


def test_standard_input_to_standard_output(
    bilingual: Trained, english: Path, german: list[str], capfdbinary, monkeypatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(english.read_bytes())))
    capfdbinary.readouterr()
    assert translate.main(["--path", str(bilingual.checkpoint), "--progress"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.decode() == "".join(f"{line}\n" for line in german)
    assert b"finished: 25 lines" in captured.err


def test_an_empty_line_stays_an_empty_line(bilingual: Trained, tmp_path: Path) -> None:
    first, *rest = translate_text(bilingual, tmp_path, "\n \t\none hundred\n\u200b\n\nseven")
    assert first == ""
    blank, hundred, invisible, empty, seven = rest
    assert (blank, invisible, empty) == ("", "", "")
    assert hundred
    assert seven


def test_an_empty_input_gives_an_empty_output(bilingual: Trained, tmp_path: Path) -> None:
    assert translate_text(bilingual, tmp_path, "") == []


def test_only_a_line_feed_ends_a_line(bilingual: Trained, tmp_path: Path) -> None:
    plain = translate_text(bilingual, tmp_path, "one hundred and two\nseven hundred\n")
    odd = "\ufeffone\u2028hundred\x0band\u0085 two  \r\nseven\r hundred"
    assert translate_text(bilingual, tmp_path, odd) == plain


def test_a_line_that_is_too_long_loses_its_end_not_its_place(
    bilingual: Trained, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pieces = Subwords((bilingual.corpus / "spm.model").read_bytes()).encode(["one hundred"])[0]
    longest = " ".join((pieces.split() * MAX_POSITIONS)[: MAX_POSITIONS - 1])
    text = f"{pieces}\n{longest} {pieces}\n{pieces}\n{longest}\n"
    short, long, again, fits = translate_text(bilingual, tmp_path, text, "--pre-tokenized")
    assert short == again
    assert long == fits
    (warning,) = capsys.readouterr().err.splitlines()
    assert "warning: 1 of the lines" in warning
    assert "line 2" in warning


def test_a_multilingual_model_needs_languages_that_it_knows(
    multilingual: Trained, capsys: pytest.CaptureFixture
) -> None:
    ours = ("--path", multilingual.checkpoint)
    assert "--source-lang is needed" in error_of(capsys, *ours)
    assert "--target-lang is needed" in error_of(capsys, *ours, "-s", "en")
    message = error_of(capsys, *ours, "-s", "en", "-t", "it")
    assert "no dict.it.txt" in message or "the checkpoint knows de, en, fr" in message


def forget_folder(model: Trained, path: Path) -> None:
    """A copy of a checkpoint whose corpus has gone from where it was trained."""
    state = torch.load(model.checkpoint, weights_only=True)
    task = state["cfg"]["task"]
    options = task if isinstance(task, dict) else vars(task)
    for name in "data", "lang_dict":
        if options.get(name):
            options[name] = options[name].replace(str(model.corpus), "/nowhere")
    torch.save(state, path)


def test_a_corpus_that_was_moved_is_found_by_flag(
    multilingual: Trained, english: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    moved = tmp_path / "moved.pt"
    forget_folder(multilingual, moved)
    languages = ("-s", "en", "-t", "de")
    message = error_of(capsys, "--path", moved, *languages, "--input", english)
    assert "the checkpoint's data folder (/nowhere/bin) is not there" in message
    assert "(--data)" in message
    expected = translate_file(multilingual, english, *languages)
    found = ("--path", moved, "--data", multilingual.data)
    assert translate_file(multilingual, english, *languages, *found) == expected


def test_a_dictionary_of_another_size_is_an_error_of_one_sentence(
    bilingual: Trained, english: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "bin"
    data.mkdir()
    for language in "en", "de":
        name = f"dict.{language}.txt"
        (data / name).write_bytes((bilingual.data / name).read_bytes() + b"more 1\n")
    model = bilingual.corpus / "spm.model"
    message = error_of(
        *(capsys, "--path", bilingual.checkpoint, "--data", data, "--input", english),
        *("--sentencepiece-model", model),
    )
    assert f"the dictionaries in --data ({data})" in message


def test_a_model_of_fairseq_s_own_folder_takes_pieces_and_gives_text(
    bilingual: Trained,
    english: Path,
    german: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    data = shutil.copytree(bilingual.data, tmp_path / "data-bin")
    pieces = Subwords((bilingual.corpus / "spm.model").read_bytes()).encode(
        english.read_text(encoding="utf-8").splitlines()
    )
    text = "".join(f"{line}\n" for line in pieces)
    assert translate_text(bilingual, tmp_path, text, "--cpu", "--data", data) == german
    assert "came in pieces (sentencepiece): the input must be" in capsys.readouterr().err


def test_batches_hold_every_line_once_and_keep_to_their_limits() -> None:
    lines = ["a " * (length - 1) + "a" if length else "" for length in [3, 0, 9, 4, 4, 1, 0, 30]]
    batches = list(make_batches(lines, BatchLimits(max_tokens=12, batch_size=2)))
    assert sorted(index for batch in batches for index in batch) == [0, 2, 3, 4, 5, 7]
    assert [7] in batches  # longer than any batch, and alone
    for batch in batches:
        longest = max(len(lines[index].split()) + 1 for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= 12
        assert len(batch) <= 2
    equal = list(make_batches(lines, BatchLimits(max_tokens=1000, equal_lengths=True)))
    assert [3, 4] in equal
    assert len(equal) == 5
    assert list(make_batches(["", ""], BatchLimits(max_tokens=10))) == []
