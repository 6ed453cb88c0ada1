"""Times and machines: by hand where it is simple, by their order where it is not."""

from dataclasses import replace

import pytest

from tests.unit.planning.settings import arguments, setting
from user_dir.errors import UserError
from user_dir.planning.machine import parse_machine, read_machine, shipped_machines, write_machine
from user_dir.planning.memory import largest_batch, memory_of
from user_dir.planning.parameters import count_parameters
from user_dir.planning.plan import Outcome, as_json, make_plan
from user_dir.planning.times import step_time

MACHINE = parse_machine(
    """
device = "cpu"
gbit_within = 80
gbit_between = 8
latency_within_us = 0
latency_between_us = 0
memory_gib = 2
memory_gbytes_per_s = 1e9
tflops = { fp32 = 1 }
nodes = 2
ranks_per_node = 2
""",
    "a machine",
)
SEQ = {"scomoe_type": "seq", "ratio1": 0.25, "ratio2": 0.5}


def time_of(machine=MACHINE, *, overlap=False, **options):
    one = setting(arch="scomoe_tiny", **options)
    return step_time(one, machine, count_parameters(one), overlap=overlap)


def test_exchanges_take_the_bytes_over_the_slower_link():
    """GShard, 512 tokens, 8 experts, two slots of 64 tokens' share, rows of 128 float32."""
    layer = time_of(tokens=512).layers[0]
    slots, experts_a_rank, row = 128, 2, 4 * 128
    to_other_node = slots * experts_a_rank * row * 2  # one way, to two ranks
    assert layer.num_bytes[2] == 2 * to_other_node
    # Both ranks of the node send over its link of 1e9 bytes a second: there and back, twice.
    assert layer.exchange == pytest.approx(4 * 2 * to_other_node / 1e9)
    rows, hidden = slots * experts_a_rank * 4, 256
    products = 3 * 4 * rows * 128 * hidden
    assert layer.experts == pytest.approx(products / 1e12, rel=1e-3)
    assert layer.total == pytest.approx(layer.exchange + layer.experts)


def test_latency_counts_every_message():
    slow = replace(MACHINE, latency_between_us=1000.0)
    extra = time_of(slow).layers[0].exchange - time_of().layers[0].exchange
    assert extra == pytest.approx(4 * 2 * 1e-3)  # four ways, two ranks in the other node
    dropless = {"capacity_factor": 0.0}
    extra = time_of(slow, **dropless).layers[0].exchange - time_of(**dropless).layers[0].exchange
    assert extra == pytest.approx(5 * 2 * 1e-3)  # once the counts ahead


def test_overlap_hides_near_arithmetic_and_no_more():
    slow_experts = replace(MACHINE, tflops={"fp32": 0.01})
    for machine in MACHINE, slow_experts:
        serial, overlapped = (
            time_of(machine, overlap=overlap, **SEQ).layers[1] for overlap in (False, True)
        )
        assert serial.kind == "seq"
        assert max(serial.exchange, serial.experts) < overlapped.total + 1e-12
        assert overlapped.total < serial.total
    gshard = [time_of(overlap=overlap).layers[0].total for overlap in (False, True)]
    assert gshard[0] == gshard[1]


def test_hierarchical_rows_pass_both_links_one_after_the_other():
    layer = time_of(tokens=512, moe_exchange="hierarchical", capacity_factor=0.0).layers[0]
    _, in_node, between = layer.num_bytes
    # There and back in both passes: as many bytes again; 2 ranks share the link between nodes.
    assert layer.exchange == pytest.approx(2 * (in_node / 1e10 + 2 * between / 1e9))
    direct = time_of(tokens=512, capacity_factor=0.0).layers[0]
    assert 0.7 < between / direct.num_bytes[2] < 0.8  # 1 - 1/4 of independent choices, about
    assert layer.num_bytes[1] > direct.num_bytes[1]


def test_gating_dropout_spares_its_share_of_the_exchange():
    often, never = time_of(tokens=512, moe_gating_dropout=0.25), time_of(tokens=512)
    assert often.exchange == pytest.approx(0.75 * never.exchange)
    for with_it, without in zip(often.layers, never.layers, strict=True):
        assert with_it.num_bytes[1:] == pytest.approx([0.75 * n for n in without.num_bytes[1:]])
    skipped = time_of(tokens=512, moe_gating_dropout=0.25, moe_gating_dropout_skip=True)
    assert skipped.experts == pytest.approx(0.75 * never.experts)


def test_experts_choose_in_the_encoder_alone():
    chosen, usual = time_of(tokens=500, moe_expert_choice=True), time_of(tokens=500)
    for with_it, without in zip(chosen.layers, usual.layers, strict=True):
        is_same = with_it.num_bytes == without.num_bytes
        assert is_same is with_it.name.startswith("decoder")  # 125 slots of 500 tokens, not 126


def test_recomputation_takes_the_forward_pass_again():
    once, again = time_of(tokens=512), time_of(tokens=512, checkpoint_activations=True)
    assert again.recomputation == pytest.approx(
        (once.attention + once.feed_forward + once.gates) / 3
    )
    assert again.experts == pytest.approx(once.experts * 4 / 3)
    assert again.exchange == pytest.approx(once.exchange * 3 / 2)


def test_half_precision_halves_bytes_and_keeps_float32_copies():
    full = setting(arch="scomoe_tiny", device="gpu")
    half = setting(arch="scomoe_tiny", device="gpu", precision="bf16")
    parameters = count_parameters(full)
    of_full, of_half = memory_of(full, parameters), memory_of(half, parameters)
    assert of_half.shared_weights == of_full.shared_weights / 2
    assert of_half.optimizer == of_full.optimizer + 8 * parameters.of_rank
    assert of_half.checkpoint == parameters.total * 14
    assert of_full.checkpoint == parameters.total * 12
    assert of_full.loading == parameters.of_rank * 12


def test_clusters_are_those_of_a_new_run_of_our_tasks():
    clusters = {"arch": "scomoe_tiny", "token_cluster": True}
    usual, learned = setting(**clusters), setting(**clusters, cluster_by="scores")
    assert usual.config.cluster_by == "token"
    extra = count_parameters(learned).shared - count_parameters(usual).shared
    assert extra == 2 * 128 * 8  # a score for each expert, in both stacks


def test_the_largest_batch_is_the_largest():
    assert [largest_batch(lambda n, m=most: n <= m) for most in (0, 1, 7, 8, 1000)] == [
        0, 1, 7, 8, 1000,
    ]  # fmt: skip
    plan = make_plan(arguments(arch="scomoe_tiny"), MACHINE, ratios=[])
    most = plan.asked.largest_batch(MACHINE)
    for tokens, fits in (most, True), (most + 1, False):
        args = arguments(arch="scomoe_tiny", tokens=tokens)
        assert Outcome.of(plan.asked.method, args, MACHINE).fits(MACHINE) is fits


def test_the_best_leaves_open_what_was_asked_for():
    args = arguments(arch="scomoe_tiny")
    free, half, whole = (
        make_plan(args, MACHINE, ratios=[0.0, 0.25, 0.5], least_share=share)
        for share in (0.0, 0.5, 1.0)
    )
    times = [plan.best.time.total for plan in (free, half, whole)]
    assert times == sorted(times) and times[0] < times[2]
    assert half.best.setting.share_everywhere >= 0.5
    assert whole.best.method.name in ("gshard", "gshard+cluster")
    tight = make_plan(args, replace(MACHINE, memory_gib=0.01), ratios=[])
    assert tight.best is None and not tight.asked.fits(tight.machine)


def test_json_holds_every_figure_of_every_way():
    plan = make_plan(arguments(arch="scomoe_tiny", **SEQ), MACHINE, ratios=[0.25], num_tokens=1e6)
    found = as_json(plan)
    assert found["asked"] == "as asked" == found["methods"][0]["name"]
    assert found["methods"][0]["flags"] == "--scomoe-type seq --ratio1 0.25 --ratio2 0.5"
    names = [one["name"] for one in found["methods"]]
    assert {
        "gshard",
        "hierarchical",
        "hierarchical, one node",
        "bottleneck 64",
        "seq 0.25/0.25",
        "feat 0.25/0.25",
    } < set(names)
    one = found["methods"][names.index("seq 0.25/0.25")]
    parts = sum(v for name, v in one["seconds"].items() if name not in ("serial", "overlap"))
    assert parts == pytest.approx(one["seconds"]["overlap"])
    updates = 1e6 / (found["tokens"] * 4)
    assert one["gpu_hours"] == pytest.approx(updates * one["seconds"]["overlap"] * 4 / 3600)


@pytest.mark.parametrize("name", shipped_machines())
def test_shipped_machines_are_whole_and_say_where_they_are_from(name):
    machine = read_machine(name)
    assert machine.sources and machine.about and machine.nodes and machine.ranks_per_node
    again = parse_machine(write_machine(machine), name)
    assert again == machine


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("gbit_within = -1", "gbit_within must be a positive number"),
        ("latency_between_us = true", "latency_between_us must be"),
        ("speed = 1", "speed is unknown"),
        ("tflops = { fp8 = 1 }", "tflops must be a table with some of fp32, fp16, bf16"),
        ("tflops = 3", "tflops must be"),
        ("nodes = 0", "nodes must be a whole number"),
        ("efficiency = 2", "efficiency must be"),
        ('device = "tpu"', "device must be gpu or cpu"),
        ("sources = [1]", "sources must be a list of texts"),
        ("= 3", "no TOML"),
    ],
)
def test_wrong_machines_are_refused(change, says):
    key = change.partition(" ")[0]
    lines = write_machine(MACHINE).splitlines()
    text = "\n".join([line for line in lines if not key or not line.startswith(f"{key} =")])
    with pytest.raises(UserError, match=f"--cluster mine: {says}"):
        parse_machine(f"{text}\n{change}", "mine")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"moe_expert_count": 6}, "--moe-expert-count"),
        ({"moe_expert_count": 2, **SEQ}, "needs the same number of experts on every rank"),
        ({"ratio1": 0.5}, "--ratio1 0.5 has no effect"),
        ({"scomoe_type": "seq", "ratio1": 0.9, "ratio2": 0.5}, "add up to more than 1"),
        ({"scomoe_type": "feat", "ratio1": 0.01, "ratio2": 0.5}, "--ratio1 .* would do"),
        ({"scomoe_type": "feat", "encoder_layers": 2, "decoder_layers": 2}, "used in no layer"),
        ({"moe_nodes": 0}, "--moe-nodes must be at least 1"),
        ({"moe_limit_nodes": 1, "moe_expert_count": 2}, "--moe-limit-nodes"),
        ({"token_cluster": True, "encoder_layers": 3}, "even number of layers"),
        ({"moe_expert_choice": True, "capacity_factor": 0.0}, "0 .dropless.; 1.0 would do"),
        ({"moe_expert_choice": True, "moe_limit_nodes": 1}, "--moe-limit-nodes does not go with"),
        ({"moe_expert_choice": True, "encoder_moe_freq": 0}, "works in the encoder alone"),
        ({"moe_gating_dropout": 1.5}, "--moe-gating-dropout must be from 0 to below 1"),
        ({"moe_gating_dropout_skip": True}, "--moe-gating-dropout-skip needs"),
        ({"optimizer": "adam"}, "--optimizer adam with 4 processes"),
        ({"precision": "fp16"}, "--fp16 is very slow on a CPU"),
        ({"precision": "bf16"}, "says no rate for it"),
        ({"encoder_attention_heads": 3}, "--encoder-attention-heads .3. must divide"),
        ({"target_vocabulary": 7}, "--share-all-embeddings needs one dictionary"),
        ({"arch": "scomoe"}, "has no mixture to plan"),
    ],
    ids=str,
)
def test_what_training_would_refuse_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        make_plan(arguments(**{"arch": "scomoe_tiny", **options}), MACHINE)
