"""The table of docs/gates.md on what goes with what: every pair trains a step, or is refused."""

import re
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.models import (
    DICTIONARY,
    LENGTHS,
    WIDE,
    build_model,
    fill_tables,
    make_batch,
)
from user_dir.errors import UserError
from user_dir.training.criterion import MoeCrossEntropyCriterion
from user_dir.transformer.flags import add_moe_options, add_scomoe_options

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "gates.md").read_text(encoding="utf-8")


def read_table() -> dict[str, tuple[list[str], set[str]]]:
    """For each method its options, and the methods that it does not go with."""
    section = PAGE.partition("\n## What goes with what\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {
        name: (options.strip("`").split(), set(filter(None, others.split(", "))))
        for name, options, others in rows
    }


TABLE = read_table()
PARSER = ArgumentParser()
add_moe_options(PARSER)
add_scomoe_options(PARSER)


def settings_of(method: str) -> dict[str, object]:
    parsed = vars(PARSER.parse_args(TABLE[method][0]))
    # Not by equality: 0 is a value.
    return {name: v for name, v in parsed.items() if v is not None and v is not False}


def are_values_of_one_option(first: dict, second: dict) -> bool:
    return any(first[name] != second[name] for name in first.keys() & second.keys())


def train_a_step(options: dict[str, object]) -> None:
    """One update of a small model on the whole loss.

    Raises:
        UserError: the options are refused.
    """
    model = build_model(**{**WIDE, "decoder_layers": 2, **options}).train()
    fill_tables(model)
    criterion = MoeCrossEntropyCriterion(
        SimpleNamespace(target_dictionary=DICTIONARY), sentence_avg=False, label_smoothing=0.1
    )
    net_input, target = make_batch(LENGTHS)
    sample = {
        "net_input": net_input,
        "target": target,
        "nsentences": len(target),
        "ntokens": int(target.ne(DICTIONARY.pad()).sum()),
    }
    loss, _, _ = criterion(model, sample)
    loss.backward()
    model.end_update()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert loss.isfinite()
    assert all(grad is None or grad.isfinite().all() for grad in grads.values())
    experts = [grad for name, grad in grads.items() if name.endswith("weight1_LDH")]
    assert experts
    assert all(grad is not None and grad.abs().sum() > 0 for grad in experts)


def test_the_table_says_the_same_from_both_sides():
    assert len(TABLE) > 20
    for name, (_, others) in TABLE.items():
        assert all(name in TABLE[other][1] for other in others), name


@pytest.mark.parametrize("method", TABLE)
def test_a_method_goes_with_those_below_it_that_the_table_does_not_name(method):
    own = settings_of(method)
    train_a_step(own)
    below = list(TABLE)[list(TABLE).index(method) + 1 :]
    for other in below:
        theirs = settings_of(other)
        if are_values_of_one_option(own, theirs):
            continue
        if other not in TABLE[method][1]:
            train_a_step({**own, **theirs})
            continue
        with pytest.raises(UserError) as refused:
            train_a_step({**own, **theirs})
        named = set(re.findall(r"--[a-z0-9-]+", str(refused.value)))
        flags = {part for part in (*TABLE[method][0], *TABLE[other][0]) if part.startswith("--")}
        assert named & flags, (method, other, str(refused.value))
