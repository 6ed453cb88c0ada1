"""Has a command's own parser read its options, and ends there."""

import argparse
import importlib
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.shell.performing import REST, launched

_ROOT = Path(__file__).resolve().parents[3]
_LAUNCHERS = ("torchrun", "srun")
# Programs that are not ours: what they take is not looked at.
FOREIGN = ("comet-compare", "git", "pip", "sudo", "docker", "apptainer")


def parse_only(name: str, arguments: Sequence[str]) -> object:
    """Read the options of the command NAME; the status is 2 where it does not take them."""
    given = list(arguments)
    if name in FOREIGN:
        return 0
    if name == "make":
        command = ["/usr/bin/make", "-n", "-C", _ROOT, *given]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if name == "sbatch":
        return subprocess.run(["bash", *given]).returncode
    if name in _LAUNCHERS:
        return parse_only(*launched(given))
    if name.startswith("python"):
        given = [one for one in given if one != "-P"]
        if given[0] == "-c":  # how many GPUs there are, of which scripts have need
            print(8)
            return 0
        module = given[1]
        if not module.startswith("user_dir.cli."):
            _stop_after_parsing()
            sys.argv = [module, *given[2:]]
            return runpy.run_module(module, run_name="__main__", alter_sys=True)
        name, given = f"scomoe-{module.removeprefix('user_dir.cli.')}", given[2:]
    program, _, command = name.partition("-")
    command = command.replace("-", "_")
    if command == "train":
        return _parse_training(given, is_fairseqs=program == "fairseq")
    if command == "evaluation_overrides":  # what a script takes for the next command
        print("{}")
    _stop_after_parsing()
    sys.argv[1:] = given
    if program == "fairseq":
        given = sys.argv[1:] = _without_user_dir(given)
        return importlib.import_module(f"fairseq_cli.{command}").cli_main()
    importlib.import_module(f"user_dir.cli.{command}").main(given)
    raise AssertionError(f"{name} has parsed nothing")


def _stop_after_parsing() -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise SystemExit(0)

    argparse.ArgumentParser.parse_args = parse_and_end  # type: ignore[method-assign]


def _parse_training(given: list[str], *, is_fairseqs: bool) -> int:
    """fairseq's parser with what is registered, and the options of `scomoe-train`."""
    from fairseq import options

    from user_dir import register  # noqa: F401
    from user_dir.fast_moe.config import MoeConfig
    from user_dir.training.option_help import _RUNNING

    given = sys.argv[1:] = _without_user_dir(given)
    parser = options.get_training_parser()
    if not is_fairseqs:
        for option in _RUNNING:
            option.add_to(parser)
    if "…" in given:
        data = ["DATA"] if given[0] == "…" else []
        given = [*data, *REST.split(), *(one for one in given if one != "…")]
    args = options.parse_args_and_arch(parser, input_args=given)
    if args.arch.startswith("scomoe"):
        MoeConfig.from_args(args)
    return 0


def _without_user_dir(given: list[str]) -> list[str]:
    """The arguments but for the plugin, which is imported already."""
    if "--user-dir" not in given:
        return given
    at = given.index("--user-dir")
    assert Path(given[at + 1]).is_dir()
    return given[:at] + given[at + 2 :]
