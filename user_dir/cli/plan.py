"""`scomoe-plan`: what a run will take, before it costs anything."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from user_dir.cli.command import CommandParser, run_command
from user_dir.cli.plan_options import DESCRIPTION, add_options
from user_dir.errors import UserError
from user_dir.text.scoring.tables import format_table
from user_dir.text.whole_output import write_whole

if TYPE_CHECKING:  # --help needs no torch
    from user_dir.planning.machine import Machine
    from user_dir.planning.plan import Plan

COMMAND = "scomoe-plan"
# Of the machine, where the command line may say otherwise; "tflops" is a rate as it is reached.
_RATES = ("gbit_between", "gbit_within", "memory_gib", "memory_gbytes_per_s")


def get_parser() -> argparse.ArgumentParser:
    """The options; docs/planning.md describes them with examples."""
    parser = CommandParser(
        prog=COMMAND, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = get_parser().parse_args(arguments)
    if args.probe:
        from user_dir.cli.plan_probe import launch

        return launch(args, arguments, lambda machine: _say(args, machine))
    return run_command(COMMAND, lambda: _plan(args), debug=args.debug)


def _plan(args: argparse.Namespace) -> None:
    from user_dir.planning.machine import read_machine, shipped_machines

    for flag, value in ("--processes", args.processes), ("--save-cluster", args.save_cluster):
        if value is not None:
            raise UserError(f"{flag} needs --probe, which measures; add it, or leave {flag} out")
    if args.cluster == "list":
        for name in shipped_machines():
            print(f"{name}: {read_machine(name).about}")
        return
    if args.cluster is None:
        raise UserError(
            f"name a machine with --cluster (one of {', '.join(shipped_machines())}, or a file), "
            "or measure this one with --probe"
        )
    _say(args, read_machine(args.cluster))


def _say(args: argparse.Namespace, machine: "Machine") -> None:
    from user_dir.planning.plan import DEFAULT_RATIOS, as_json, make_plan

    machine = _changed(machine, args)
    args.moe_nodes = _of_layout(args.moe_nodes, machine.nodes, "--moe-nodes")
    ranks = _of_layout(args.moe_ranks_per_node, machine.ranks_per_node, "--moe-ranks-per-node")
    args.moe_ranks_per_node = ranks
    plan = make_plan(
        args,
        machine,
        ratios=args.grid or DEFAULT_RATIOS,
        least_share=args.least_global_share,
        num_tokens=args.train_tokens,
    )
    _print(plan, everything=args.all)
    if args.json is not None:
        write_whole(args.json, json.dumps(as_json(plan), indent=1) + "\n", flag="--json")
        print(f"wrote {args.json}")
    if args.out is not None:
        _write_page(plan, args)


def _write_page(plan: "Plan", args: argparse.Namespace) -> None:
    try:
        from user_dir.planning.page import render
    except ModuleNotFoundError as error:
        raise UserError(
            f"--out draws with packages that are not installed ({error.name}); install them with: "
            "pip install 'scomoe[report]', or leave --out out"
        ) from None
    write_whole(args.out, render(plan), flag="--out")
    print(f"wrote {args.out}")


def _changed(machine: "Machine", args: argparse.Namespace) -> "Machine":
    """The machine with what the command line says of it."""
    values = {name: getattr(args, name) for name in _RATES}
    values["latency_between_us"] = args.latency_between
    values["latency_within_us"] = args.latency_within
    if args.tflops is not None:
        values |= {"tflops": {args.precision: args.tflops}, "efficiency": 1.0}
    return machine.changed(values)


def _of_layout(given: int | None, usual: int | None, flag: str) -> int:
    value = usual if given is None else given
    if value is None:
        raise UserError(f"{flag} is missing, and the machine says none; {flag} 1, say")
    return value


def _print(plan: "Plan", *, everything: bool) -> None:
    from user_dir.planning.tables import (
        advice,
        facts,
        flags_of,
        layer_table,
        memory_table,
        method_table,
        time_table,
    )

    width = max(len(name) for name, _ in facts(plan))
    for name, value in facts(plan):
        print(f"{name.ljust(width)}  {value}")
    tables = (
        method_table(plan, everything=everything),
        time_table(plan),
        memory_table(plan),
        layer_table(plan),
    )
    for table in tables:
        print(f"\n{table.title}\n{format_table(table.header, table.rows)}")
    if plan.refused:
        name, why = next(iter(plan.refused.items()))
        print(f"\n{len(plan.refused)} points of the grid are left out, {name} for one: {why}")
    flags = " ".join(flags_of(plan))
    print(f"\n{advice(plan)}" + (f"\n{flags}" if flags else ""))


if __name__ == "__main__":
    sys.exit(main())
