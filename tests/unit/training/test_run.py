"""When a run will be over."""

from types import SimpleNamespace

import pytest

from user_dir.training.run import _last_update


@pytest.mark.parametrize("max_update", [0, 7, 1000])
@pytest.mark.parametrize("max_epoch", [0, 3, 9])
@pytest.mark.parametrize("frequency", [1, 4])
@pytest.mark.parametrize(
    ("epoch", "begun", "is_over"), [(1, 0, False), (3, 8, False), (2, 10, True)]
)
def test_the_last_update_is_that_of_the_epochs_to_come(
    max_update, max_epoch, frequency, epoch, begun, is_over
):
    optimization = SimpleNamespace(
        max_update=max_update, max_epoch=max_epoch, update_freq=[frequency]
    )

    class Epochs:
        next_epoch_idx = epoch + is_over
        iterations_in_epoch = begun

        def __len__(self):
            return 10

    epochs = Epochs()
    epochs.epoch = epoch
    ends = [max_update or float("inf")]
    if max_epoch:
        last, batches = 100, 0 if is_over else 10 - begun
        for _ in range(epoch, max_epoch + 1):
            while batches > 0:
                last, batches = last + 1, batches - frequency
            batches = 10
        ends.append(last)
    assert _last_update(SimpleNamespace(optimization=optimization), 100, epochs) == min(ends)
