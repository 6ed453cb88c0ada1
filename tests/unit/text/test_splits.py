"""Near-duplicates stay on one side of a split, against a loop over all pairs of texts."""

import random
from itertools import combinations

import pytest

from user_dir.text.splits import Groups, hold_out, unite_equal, unite_near_duplicates, words_of


def are_near(one, other):
    """The definition: few words deleted on both sides give the same, or a shared run of seven."""
    words = words_of(one), words_of(other)
    runs = [{tuple(side[start : start + 7]) for start in range(len(side) - 6)} for side in words]
    if runs[0] & runs[1]:
        return True
    shorter = [
        {
            kept
            for dropped in range(min(2, len(side) // 3) + 1)
            for kept in combinations(side, len(side) - dropped)
        }
        for side in words
    ]
    return bool(shorter[0] & shorter[1])


def test_groups_are_those_of_a_loop_over_all_pairs():
    draw = random.Random(1)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(150)]
    groups, expected = Groups(len(texts)), Groups(len(texts))
    unite_near_duplicates(groups, texts)
    for one, other in combinations(range(len(texts)), 2):
        if are_near(texts[one], texts[other]):
            expected.unite(one, other)
    assert [groups.of(n) for n in range(150)] == [expected.of(n) for n in range(150)]
    assert 1 < len(groups.sizes()) < 150


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("Python 2 bindings for libfoo", "Python 3 bindings for libfoo!", True),
        ("This package has the documentation.", "This package has the headers.", True),
        ("apples for all", "pears are few", False),
        ("これは音声を扱う道具です", "これは画像を扱う道具です", True),
    ],
)
def test_sibling_packages_belong_together(one, other, together):
    groups = Groups(2)
    unite_near_duplicates(groups, [one, other])
    assert (groups.of(0) == groups.of(1)) is together


def test_sources_of_one_translation_belong_together():
    groups = Groups(3)
    unite_equal(groups, [(0, "Ein Hund."), (1, "eine Katze"), (2, "ein Hund")])
    assert groups.of(0) == groups.of(2) != groups.of(1)


def test_a_group_gives_one_held_out_text_and_the_rest_of_it_is_named():
    groups = Groups(8)
    for one, other in [(0, 1), (2, 3), (3, 4), (5, 6)]:
        groups.unite(one, other)
    held = hold_out(groups, [1, 3, 5, 7], {"test": 2, "valid": 9}, seed=1, largest_group=2)
    assert sorted(held.sets["test"] + held.sets["valid"]) == [1, 5, 7]  # 2, 3, 4 are too many
    assert len(held.sets["test"]) == 2
    assert held.siblings == {0, 6}
