"""A plan in tables, for the terminal and the page."""

from dataclasses import dataclass

from user_dir.planning.plan import Outcome, Plan
from user_dir.planning.setting import Setting

_FAMILIES = ("seq", "feat", "seq+cluster", "feat+cluster")
_USUAL = ("seq 0.2/0.5", "feat 0.25/0.5")
TIME_PARTS = {
    "attention": "attention",
    "feed_forward": "dense feed-forward",
    "gates": "gates and norms of mixtures",
    "experts": "experts",
    "exchange": "exchange, where nothing else is done",
    "output": "output and loss",
    "recomputation": "recomputation",
    "gradients": "sum of gradients over ranks",
    "optimizer": "optimizer",
}
MEMORY_PARTS = {
    "shared_weights": "replicated weights",
    "expert_weights": "experts",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "summing": "buffer of the gradients' sum",
    "activations": "activations",
    "recomputed": "a layer that is recomputed",
    "exchange": "exchange buffers",
    "output": "output and loss",
}


@dataclass(frozen=True)
class Table:
    """Rows below a header; the first column is text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def shown(plan: Plan) -> list[Outcome]:
    """What a table has room for: all but the grids, of which the usual ratios and the fastest."""
    by_name = {one.method.name: one for one in plan.outcomes}
    wanted = [plan.asked, plan.best, *(plan.fastest(family) for family in _FAMILIES)]
    names = {one.method.name for one in wanted if one is not None}
    names |= {name for name in by_name if name.partition("+")[0] in _USUAL}
    names |= {o.method.name for o in plan.outcomes if o.method.family not in _FAMILIES}
    return [one for one in plan.outcomes if one.method.name in names]


def method_table(plan: Plan, *, everything: bool = False) -> Table:
    """Ways of exchange side by side."""
    header: tuple[str, ...] = (
        "exchange", "open", "MB between", "MB in node", "serial ms", "overlap ms", "of gshard",
        "GiB",
    )  # fmt: skip
    if plan.num_tokens is not None:
        header += ("GPU hours",)
    rows: list[tuple[str, ...]] = []
    base = plan.gshard.time.total
    for one in plan.outcomes if everything else shown(plan):
        _, in_node, between = one.num_bytes
        mark = " *" if one is plan.best else ""
        row: tuple[str, ...] = (
            f"{one.method.name}{mark}",
            f"{one.setting.share_everywhere:.2f}",
            f"{between / 1e6:.2f}",
            f"{in_node / 1e6:.2f}",
            f"{1e3 * one.serial.total:.1f}",
            f"{1e3 * one.overlapped.total:.1f}",
            f"{one.time.total / base:.2f}",
            f"{one.memory.peak / 2**30:.1f}" + ("" if one.fits(plan.machine) else " (!)"),
        )
        if plan.num_tokens is not None:
            row += (f"{one.gpu_hours(plan.num_tokens):,.1f}",)
        rows.append(row)
    return Table("Ways of exchange", header, rows)


def time_table(plan: Plan) -> Table:
    """Where the time of an update goes."""
    outcomes = _asked_and_best(plan)
    rows = [
        (words, *(f"{1e3 * one.time.parts[key]:.1f}" for one in outcomes))
        for key, words in TIME_PARTS.items()
        if any(one.time.parts[key] for one in outcomes)
    ]
    rows.append(("in all", *(f"{1e3 * one.time.total:.1f}" for one in outcomes)))
    return Table("Time of an update, ms", ("part", *_names(outcomes)), rows)


def memory_table(plan: Plan) -> Table:
    """What a rank holds, and a checkpoint."""
    outcomes = _asked_and_best(plan)
    rows = [
        (words, *(_gib(one.memory.parts[key]) for one in outcomes))
        for key, words in MEMORY_PARTS.items()
        if any(one.memory.parts[key] for one in outcomes)
    ]
    rows += [
        ("peak", *(_gib(one.memory.peak) for one in outcomes)),
        (
            "checkpoint: file, and host memory to save",
            *(_gib(o.memory.checkpoint) for o in outcomes),
        ),
        ("checkpoint: host memory of a rank to load", *(_gib(o.memory.loading) for o in outcomes)),
        ("largest batch, tokens", *(f"{o.largest_batch(plan.machine):,}" for o in outcomes)),
    ]
    return Table("Memory of a rank, GiB", ("part", *_names(outcomes)), rows)


def layer_table(plan: Plan) -> Table:
    """The mixtures of what was asked for, one by one."""
    rows = []
    for layer in plan.asked.time.layers:
        on_rank, in_node, between = (f"{value / 1e6:.3f}" for value in layer.num_bytes)
        times = (layer.exchange, layer.experts, layer.total)
        rows.append(
            (layer.name, layer.kind, on_rank, in_node, between, *(f"{1e3 * t:.2f}" for t in times))
        )
    header = (
        "mixture", "kind", "MB on rank", "MB in node", "MB between", "exchange ms", "experts ms",
        "together ms",
    )  # fmt: skip
    return Table(
        f"Mixtures of {plan.asked.method.name}, a rank's forward pass; times of an update",
        header,
        rows,
    )


def headline(plan: Plan) -> list[tuple[str, str]]:
    """The few numbers that one wants first."""
    asked, best = plan.asked, plan.best
    found = [
        (f"{1e3 * asked.time.total:.0f} ms", f"an update with {asked.method.name}"),
        (f"{asked.tokens_per_second:,.0f}", "target tokens a second"),
        (_gib(asked.memory.peak) + " GiB", f"a rank, of {plan.machine.memory_gib:g}"),
    ]
    if best is not None and best is not asked:
        found.append((f"{asked.time.total / best.time.total:.2f} ×", f"with {best.method.name}"))
    if plan.num_tokens is not None:
        hours = f"{asked.gpu_hours(plan.num_tokens):,.0f}"
        found.append((hours, f"GPU hours for {plan.num_tokens:,.0f} target tokens"))
    return found


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What is planned, by name."""
    machine, setting, sizes = plan.machine, plan.asked.setting, plan.asked.parameters
    config = setting.config
    found = [
        ("machine", f"{machine.name}: {machine.about}"),
        ("layout", f"{setting.layout}, {config.num_experts} experts"),
        (
            "between nodes",
            f"{machine.gbit_between:g} Gbit/s a node, {machine.latency_between_us:g} µs a message",
        ),
        (
            "in a node",
            f"{machine.gbit_within:g} Gbit/s a rank, {machine.latency_within_us:g} µs a message",
        ),
        (
            "arithmetic",
            f"{machine.flops(setting.precision) / 1e12:g} TFLOP/s a rank in {setting.precision}",
        ),
        (
            "parameters",
            f"{sizes.total:,}, of them {sizes.experts:,} of experts; {sizes.of_rank:,} a rank",
        ),
        (
            "batch",
            f"{setting.tokens:,} tokens a rank in each stack, "
            f"sentences of {setting.sentence_length}",
        ),
        ("capacity factor", f"{config.capacity_factor:g}, top-{setting.top_k}{_gating(setting)}"),
        ("optimizer", setting.optimizer + (", layers recomputed" if setting.recompute else "")),
    ]
    return found + [("assumed", line) for line in machine.assumed]


def _gating(setting: Setting) -> str:
    """What the gates do besides."""
    gate = setting.config.gate
    words = "; in the encoder experts choose tokens" if gate.expert_choice else ""
    if gate.dropout:
        what = "sees no expert" if gate.dropout_skips else "leaves its rank"
        words += f"; in {gate.dropout:g} of the updates no token {what}"
    return words


def advice(plan: Plan) -> str:
    """What to do, in a sentence."""
    limit = f"at least {plan.least_share:g} of tokens, features or nodes open to a token"
    if plan.best is None:
        return (
            f"Nothing with {limit} fits into {plan.machine.memory_gib:g} GiB: take fewer --tokens, "
            "--checkpoint-activations, or more ranks."
        )
    return f"Fastest with {limit} that fits: {plan.best.method.name}."


def flags_of(plan: Plan) -> list[str]:
    """The options of what is best, each with its value."""
    flags = "" if plan.best is None else plan.best.method.flags
    return [f"--{flag.strip()}" for flag in flags.split("--")[1:]]


def _asked_and_best(plan: Plan) -> list[Outcome]:
    best = plan.best
    return [plan.asked] if best is None or best is plan.asked else [plan.asked, best]


def _names(outcomes: list[Outcome]) -> list[str]:
    return [one.method.name for one in outcomes]


def _gib(value: float) -> str:
    gib = value / 2**30
    return f"{gib:.2f}" if gib >= 0.1 else f"{gib:.4f}"
