"""What sums of layers become in a run's statistics, and that a record has a limit."""

import pytest
import torch

from user_dir.fast_moe.report import BY_EXPERT, COUNTED, KNOWN
from user_dir.training.layer_records import layer_records
from user_dir.training.metrics import PREFIX


def sums_of(num_layers: int, num_experts: int) -> torch.Tensor:
    """Sums (layers, …) of which every number is another one."""
    columns = len(KNOWN) + len(COUNTED) + len(BY_EXPERT) * num_experts
    return torch.arange(num_layers * columns, dtype=torch.float64).view(num_layers, columns)


def loads_of(sums: torch.Tensor, num_experts: int) -> torch.Tensor:
    assert BY_EXPERT[-1] == "kept"
    return sums[:, -num_experts:].long()


@pytest.mark.parametrize("num_experts", [8, 4096])
def test_up_to_a_limit_every_expert_has_its_load(num_experts):
    sums = sums_of(4, num_experts)
    names = [f"encoder.{index}" for index in range(4)]
    records = layer_records({PREFIX + ",".join(f"{n}=plain" for n in names): sums}, ())
    assert list(records) == names
    for record, loads in zip(records.values(), loads_of(sums, num_experts), strict=True):
        assert record["load"] == loads.tolist()
        assert "experts_per_load" not in record


def test_beyond_it_neighbours_are_added_up():
    num_layers, num_experts = 24, 1000  # 24,000 loads
    sums = sums_of(num_layers, num_experts)
    label = ",".join(f"decoder.{index}=seq" for index in range(num_layers))
    records = layer_records({PREFIX + label: sums}, ())
    assert sum(len(record["load"]) for record in records.values()) <= 2**14
    for record, loads in zip(records.values(), loads_of(sums, num_experts), strict=True):
        assert record["experts_per_load"] == 2
        assert record["load"] == [int(a + b) for a, b in loads.view(-1, 2)]


def test_shares_are_of_what_could_be_dropped():
    sums = torch.zeros(1, len(KNOWN) + len(COUNTED) + len(BY_EXPERT) * 2, dtype=torch.float64)
    places = {name: index for index, name in enumerate((*KNOWN, *COUNTED))}
    for name, value in ("tokens_local", 4), ("tokens_global", 6), ("routed", 9), ("entropy", 5):
        sums[0, places[name]] = value
    # 10 first choices of which 8 are kept, 10 second ones of which 5 are.
    sums[0, len(places) :] = torch.tensor([7, 3, 5, 3, 12, 8, 8, 5])
    (record,) = layer_records({f"{PREFIX}encoder.1=seq": sums}, ()).values()
    assert record["overflow1"] == 0.2 and record["overflow2"] == 0.5
    assert record["unrouted"] == pytest.approx(0.1) and record["entropy"] == 0.5
    assert record["load"] == [8, 5] and record["tokens"] == 10
    assert record["balance_loss"] == 0.0
