"""Numbers of options: what is one, and what only looks like one."""

import argparse

import pytest

from user_dir.option_values import count, finite_number, positive, whole_number

NO_NUMBERS = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1_000",
    "٣",
    "８",
    "²",
    "0x10",
    "1e",
    "--",
    "9" * 5000,
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "2.5", "1e3"])
@pytest.mark.parametrize("kind", [whole_number(), positive, count])
def test_what_is_no_whole_number_is_refused_with_its_text(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number"):
        kind(text)


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1e999", "1,5"])
def test_what_is_no_finite_number_is_refused_with_its_text(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number"):
        finite_number()(text)


def test_numbers_are_read_as_they_are_written():
    assert [whole_number()(text) for text in ("0", "-3", "+7", "007")] == [0, -3, 7, 7]
    assert [finite_number()(text) for text in ("0", "-.5", "2.", "1e-3", "1E2")] == [
        0,
        -0.5,
        2,
        0.001,
        100,
    ]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (positive, "0", "must be a whole number of at least 1, not '0'"),
        (count, "-1", "must be a whole number of at least 0, not '-1'"),
        (finite_number(least=0, most=1), "1.5", "must be a number from 0 to 1, not '1.5'"),
    ],
)
def test_a_message_says_what_would_do(kind, text, message):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        kind(text)
    assert str(caught.value) == message
