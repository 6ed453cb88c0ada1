"""docs/options.md, and the tables of docs/training.md, against the options and their defaults."""

import re
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path

import pytest
from fairseq.models import ARCH_CONFIG_REGISTRY

from tools import options_page
from user_dir import register  # noqa: F401 - fairseq must know our names
from user_dir.fast_moe.config import MoeConfig
from user_dir.training.criterion import MoeCrossEntropyConfig
from user_dir.transformer.model import ScomoeModel

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SIZED = ("scomoe_tiny", "scomoe_base", "scomoe_large")


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's table, without those of its head."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r" \|(?= )", line.strip("|"))] for line in lines[2:]]


def options_of(arch: str) -> Namespace:
    """What an architecture makes of a command line that names nothing else."""
    args = Namespace(arch=arch)
    ARCH_CONFIG_REGISTRY[arch](args)
    return args


def settings(**options) -> dict[str, object]:
    """What a layer is built with."""
    config = MoeConfig.from_args(Namespace(**options))
    return {**vars(config), **vars(config.gate)}


def default_of(flag: str) -> object:
    """An option's default, where no architecture has another."""
    parser = ArgumentParser()
    ScomoeModel.add_args(parser)
    actions = {action.option_strings[0]: action for action in parser._actions}
    if flag not in actions:
        of_criterion = {f"--{f.name.replace('_', '-')}": f for f in fields(MoeCrossEntropyConfig)}
        return of_criterion[flag].default
    if actions[flag].const is True:
        return False
    # The setting that an option changes is the one that an unusual value shows in.
    value, needed = (7, {"moe_expert_count": 8}) if "freq" in flag else (object(), {})
    changed = settings(**{actions[flag].dest: value, **needed})
    return next(settings()[name] for name, found in changed.items() if found is value)


def is_same(said: str, value: object) -> bool:
    if isinstance(value, bool):
        return said == "off" and not value
    if isinstance(value, str):
        return said == f"`{value}`"
    # What follows from another option is empty, or in words.
    return not said.isdigit() if value is None else float(said) == value


@pytest.mark.parametrize("row", rows_of("Options of the mixture"), ids=lambda row: row[0])
def test_the_table_of_options_has_their_defaults(row):
    for flag in re.findall(r"`(--[a-z0-9-]+)[ `]", row[0]):
        usual, *others = row[1].split("; ")
        said = dict.fromkeys((*SIZED, "scomoe"), usual)
        said |= dict(one[1:].split("`: ") for one in others)
        for arch, value in said.items() if usual else ():
            default = vars(options_of(arch)).get(flag[2:].replace("-", "_"))
            assert is_same(value, default_of(flag) if default is None else default), (flag, arch)


@pytest.mark.parametrize("row", rows_of("Models")[:3], ids=lambda row: row[0])
def test_the_table_of_models_has_their_sizes(row):
    args = options_of(row[0].strip("`"))
    width = (args.encoder_embed_dim, args.encoder_ffn_embed_dim, args.encoder_attention_heads)
    assert row[1] == f"{args.encoder_layers} + {args.decoder_layers}"
    assert row[2] == ", ".join(map(str, width))
    assert width == (args.decoder_embed_dim, args.decoder_ffn_embed_dim, width[2])
    assert (row[3], args.moe_freq) == ("every second", 2)
    assert row[4] == str(args.moe_expert_count)


def test_the_page_of_all_options_is_what_the_parsers_say():
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.page(), (
        "options have changed: python -m tools.options_page writes docs/options.md anew"
    )


def test_every_option_of_a_run_that_takes_a_value_has_an_example():
    rows = [line for line in options_page.page().splitlines() if line.startswith("| `-")]
    training = rows[: next(i for i, row in enumerate(rows) if row.startswith("| `--path"))]
    assert len(training) > 60
    for row in training:
        _, default, example, *_ = row.strip("| ").split(" | ")
        assert default == "off" or re.fullmatch(r"`.+`", example), row
