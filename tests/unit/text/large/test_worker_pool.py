import os
import signal

import pytest

from user_dir.errors import CorpusError, UserError
from user_dir.text.large.worker_pool import map_as_done, map_in_order


def square(number):
    return number * number


def refuse_three(number):
    if number == 3:
        raise CorpusError("three")
    return number


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_and_few_items_are_drawn_ahead(workers):
    drawn = []

    def items():
        for number in range(50):
            drawn.append(number)
            yield number

    results = map_in_order(square, items(), workers=workers)
    assert next(results) == 0
    assert len(drawn) <= 2 * workers + 1
    assert [0, *results] == [number * number for number in range(50)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_gets_its_result(workers):
    done = dict(map_as_done(square, range(9), workers=workers))
    assert done == {number: number * number for number in range(9)}


@pytest.mark.parametrize("mapping", [map_in_order, map_as_done])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_workers_error_is_raised_here(mapping, workers):
    with pytest.raises(CorpusError, match="three"):
        list(mapping(refuse_three, [1, 2, 3, 4], workers=workers))


@pytest.mark.parametrize("mapping", [map_in_order, map_as_done])
def test_a_killed_worker_ends_the_work_with_a_sentence(mapping):
    with pytest.raises(UserError, match="worker process was killed"):
        list(mapping(die, [1, 2, 3], workers=2))


@pytest.mark.parametrize("mapping", [map_in_order, map_as_done])
def test_the_function_does_not_travel_with_every_item(mapping):
    class Known:
        """What a worker has from the beginning: it cannot be pickled, nor need it be."""

        def __call__(self, number):
            return number * number

        def __reduce__(self):
            raise AssertionError("it was pickled")

    assert len(list(mapping(Known(), [1, 2, 3], workers=2))) == 3
