"""Shares of tokens and features: decimals are exact, and what does not come out is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_dir.fast_moe.layout.reach import Reach, Shares

TENTHS = st.integers(0, 10)


def test_decimals_add_up_to_one():
    shares = Shares.of(0.7, 0.3)
    assert shares.everywhere == 0
    assert shares.reaches() == (Reach.LOCAL, Reach.NODE)


def test_floors_of_products_are_exact():
    # In binary 0.29 * 100 is 28.999999999999996 and 0.1 * 3 more than 0.3.
    assert Shares.of(0.29, 0.1).quotas(100) == {Reach.LOCAL: 29, Reach.NODE: 10, Reach.GLOBAL: 61}


@given(st.integers(0, 300), TENTHS, TENTHS)
def test_quotas_add_up_to_the_tokens(num_tokens, a, b):
    b = min(b, 10 - a)
    shares = Shares.of(a / 10, b / 10)
    quotas = shares.quotas(num_tokens)
    assert sum(quotas.values()) == num_tokens
    assert min(quotas.values()) >= 0
    assert quotas[Reach.LOCAL] == a * num_tokens // 10
    if a + b == 10:
        assert quotas[Reach.GLOBAL] == 0
    else:
        assert quotas[Reach.NODE] == b * num_tokens // 10


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((-0.1, 0.5), "--ratio1 must be a share from 0 to 1, but is -0.1; 0 would do"),
        ((0.1, 1.5), "--ratio2 must be a share from 0 to 1, but is 1.5; 1 would do"),
        ((0.7, 0.4), "--ratio2 0.3 would do"),
        ((float("nan"), 0.5), "--ratio1 must be a share from 0 to 1, but is nan"),
        ((0.2, float("inf")), "--ratio2 must be a share from 0 to 1, but is inf"),
    ],
)
def test_wrong_ratios_are_refused_with_what_would_do(ratios, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Shares.of(*ratios)


def test_features_split_into_eights():
    sizes = Shares.of(0.25, 0.5).features(512)
    assert sizes == {Reach.LOCAL: 128, Reach.NODE: 256, Reach.GLOBAL: 128}
    assert Shares.of(0.25, 0.75).features(32)[Reach.GLOBAL] == 0


@pytest.mark.parametrize(
    ("ratios", "dim", "named"),
    [
        ((0.2, 0.5), 512, "--ratio1 0.203125 --ratio2 0.5"),
        ((0.3, 0.3), 32, "--ratio1 0.25 --ratio2 0.25"),
        ((0.9, 0.05), 16, "--ratio1 1 --ratio2 0"),
        ((0.3, 0.3), 48, "--ratio1 0.5 --ratio2 0"),  # sixths are no decimals
    ],
)
def test_a_split_that_does_not_come_out_names_ratios_that_do(ratios, dim, named):
    with pytest.raises(ValueError, match="multiple of 8") as error:
        Shares.of(*ratios).features(dim)
    assert named in str(error.value)
    _, _, suggestion = str(error.value).partition("; --ratio1 ")
    first, _, second = suggestion.removesuffix(" would do").partition(" --ratio2 ")
    Shares.of(float(first), float(second)).features(dim)


def test_a_width_that_is_no_multiple_of_eight_is_refused():
    with pytest.raises(ValueError, match="96 would do"):
        Shares.of(0.25, 0.5).features(100)
