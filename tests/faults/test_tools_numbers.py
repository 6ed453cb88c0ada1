"""Numbers that are none, in every option of ours that takes one, and options that do not exist."""

import argparse
from importlib import import_module

import pytest

from tests.support.commands import ROOT
from tests.support.trained import Trained
from user_dir.cli import evaluate, translate
from user_dir.transformer.flags import add_moe_options, add_scomoe_options

COMMANDS = sorted(
    path.stem
    for path in (ROOT / "user_dir" / "cli").glob("*.py")
    if "def get_parser(" in path.read_text(encoding="utf-8")
)
NO_NUMBERS = ("nan", "inf", "-inf", "", " ", "1_0", "٣", "²", "1e999", "ten")


def parsers() -> list[argparse.ArgumentParser]:
    """One for each command, and one for the options of the model."""
    model = argparse.ArgumentParser(prog="fairseq-train")
    add_moe_options(model)
    add_scomoe_options(model)
    return [model, *(import_module(f"user_dir.cli.{name}").get_parser() for name in COMMANDS)]


NUMERIC = [
    pytest.param(parser, action, id=f"{parser.prog} {action.option_strings[0]}")
    for parser in parsers()
    for action in parser._actions
    if action.type in (int, float) or "option_values" in getattr(action.type, "__module__", "")
]


def test_the_options_with_numbers_are_found():
    assert len(NUMERIC) > 45


@pytest.mark.parametrize(("parser", "action"), NUMERIC)
def test_what_is_no_number_is_refused_by_the_option_s_name(parser, action, capsys):
    flag = action.option_strings[0]
    for text in NO_NUMBERS:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([f"{flag}={text}"])
        assert ended.value.code == 2, text
        message = capsys.readouterr().err.splitlines()[-1]
        assert flag in message, text
        assert "number" in message, text


@pytest.mark.parametrize(
    ("command", "flag", "values"),
    [
        ("translate", "--beam", ("0", "-1")),
        ("translate", "--max-len-a", ("-0.1",)),
        ("translate", "--lenpen", ("1e9",)),
        ("report", "--examples", ("-1",)),
        ("make_dummy_corpus", "--seed", ("-1",)),
        ("make_dummy_corpus", "--length", ("²-3", "5-4", "0-3", "3", "1-2-3", "-")),
        ("prepare_numbers", "--vocab-size", ("0", "-5")),
        ("prepare_wmt_en_fr", "--ratio", ("0.5", "-1")),
        ("prepare_wmt_en_fr", "--valid-every", ("1", "-3")),
        ("prepare_opus100", "--character-coverage", ("1.5", "0", "-1")),
        ("evaluation_overrides", "--r1", ("1.5", "-0.1")),
        ("average", "--last", ("0", "-2")),
    ],
)
def test_a_number_out_of_range_is_refused(command, flag, values, capsys):
    for value in values:
        with pytest.raises(SystemExit):
            import_module(f"user_dir.cli.{command}").get_parser().parse_args([f"{flag}={value}"])
        assert f"argument {flag}" in capsys.readouterr().err.splitlines()[-1]


def error_of(capsys: pytest.CaptureFixture, model: Trained, *options: str) -> str:
    """The one sentence of a translation that must fail."""
    arguments = ["--path", str(model.checkpoint), "--input", "/dev/null", "--cpu", *options]
    capsys.readouterr()
    assert translate.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "limits", [("0.1", "0"), ("0", "0"), ("0.4", "0"), ("0", "-1"), ("1", "-3")]
)
def test_an_output_of_no_length_is_refused(limits, bilingual: Trained, capsys):
    message = error_of(capsys, bilingual, "--max-len-a", limits[0], f"--max-len-b={limits[1]}")
    assert "--max-len-b must be at least" in message


def test_the_shortest_possible_output_is_translated(bilingual: Trained, tmp_path):
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("one\nseven hundred and two\n", encoding="utf-8")
    arguments = ["--path", str(bilingual.checkpoint), "--input", str(source), "--cpu"]
    arguments += ["--output", str(output), "--max-len-a", "0.5", "--max-len-b", "0"]
    assert translate.main(arguments) == 0
    assert output.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{'moe_eval_capacity': 0.5}", "did you mean moe_eval_capacity_token_fraction?"),
        ("{'--ratio1': 0.5}", "did you mean ratio1?"),
        ("{'nonsense': 0.5}", "no option 'nonsense'"),
        ("{'dropout': 'a'}", "dropout must be a number as in the checkpoint (0.1), not 'a'"),
        ("{'left_pad_source': 'os'}", "left_pad_source must be True or False"),
        ("{'ratio1': 1e999}", "--ratio1"),
        ("{'ratio1': 'half'}", "--model-overrides"),
        ("{'encoder_layers': 2.5}", "--model-overrides"),
        ("{'moe_eval_capacity_token_fraction': 1e999}", "--moe-eval-capacity-token-fraction"),
    ],
)
def test_overrides_that_the_model_does_not_have_are_named(
    given: str, message: str, bilingual: Trained, tmp_path, capsys
):
    source = tmp_path / "source"
    source.write_text("one\n", encoding="utf-8")
    line = error_of(capsys, bilingual, "--model-overrides", given, "--input", str(source))
    assert message in line


@pytest.mark.parametrize("given", ["", "{", "[1]", "{1: 2}", "{'a': b}", "(" * 500, "{'a': 1" * 99])
def test_overrides_that_are_no_dictionary_are_refused(given: str, capsys):
    for command in translate, evaluate:
        with pytest.raises(SystemExit):
            command.get_parser().parse_args([f"--model-overrides={given}"])
        assert "--model-overrides: must be a dictionary" in capsys.readouterr().err
