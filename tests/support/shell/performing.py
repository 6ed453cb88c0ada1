"""Runs a command in this process, as an installed one would run, but small."""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence

# What is added to a command, so that it takes a moment; of an option given twice the last counts.
_SIZES = """--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 32
--decoder-ffn-embed-dim 32 --max-update 3 --max-tokens 300 --log-interval 1
--num-workers 0 --cpu"""
_SEARCH = "--cpu --beam 1 --max-len-b 12"
_SMALLER = {
    "train": _SIZES,
    "translate": _SEARCH,
    "evaluate": _SEARCH,
    "generate": _SEARCH,
    "hydra-train": "common.cpu=true optimization.max_update=2 dataset.num_workers=0 "
    "+model.encoder_embed_dim=16 +model.encoder_ffn_embed_dim=16",
    "prepare_numbers": "--train-pairs-per-language 300 --valid-lines 200 --test-lines 16",
}
# Where a command asks for as many, or so large ones: there is little text.
_FEWER = {
    "--valid-lines": "10",
    "--test-lines": "6",
    "--vocab-size": "150",
    "--samples": "20",
}
# What "…" stands for in a training command, before what it says itself.
REST = (
    "--task scomoe_translation -s en -t de --arch scomoe_tiny --optimizer moe_adam --lr 1e-3 "
    "--criterion moe_cross_entropy --no-save"
)
DATA = "corpora/mine/bin"


def perform(name: str, arguments: Sequence[str]) -> object:
    """Run the command NAME; returns its status."""
    given = list(arguments)
    if name in ("torchrun", "srun"):
        name, given = launched(given)  # in one process
    if name.startswith("scomoe-"):
        return _call(name.removeprefix("scomoe-").replace("-", "_"), given)
    if name.startswith("fairseq-"):
        return _call_fairseq(name.removeprefix("fairseq-"), given)
    return _python([one for one in given if one != "-P"])


def launched(given: list[str]) -> tuple[str, list[str]]:
    """The command that torchrun or srun starts."""
    for at, one in enumerate(given):
        if one == "-m":
            return "python", given[at:]
        if one.startswith(("scomoe-", "fairseq-")):
            return one, given[at + 1 :]
        if os.path.basename(one).startswith("python"):
            return "python", given[at + 1 :]
    raise SystemExit(f"what do {given} start?")


def _smaller(module: str, given: list[str]) -> list[str]:
    """The command's arguments with those that make it small."""
    if "…" in given:
        has_data = any(os.path.isdir(one) for one in given)
        given = [
            *([] if has_data else [DATA]),
            *REST.split(),
            *(one for one in given if one != "…"),
        ]
    added = _SMALLER.get(module, "").split()
    for flag, value in _FEWER.items():
        added += [flag, value] if flag in given else []
    if "--processes" in given:
        added += ["--processes", os.environ.get("SHELL_PROCESSES", "1")]
    return [*given, *added]


def _call(module: str, given: list[str]) -> object:
    sys.argv[0] = f"/usr/local/bin/scomoe-{module.replace('_', '-')}"
    sys.argv[1:] = given = _smaller(module, given)
    return importlib.import_module(f"user_dir.cli.{module}").main(given)


def _call_fairseq(command: str, given: list[str]) -> object:
    if "…" in given:
        given = ["--user-dir", "user_dir", *given]
    sys.argv[1:] = _smaller(command, given)
    return importlib.import_module(f"fairseq_cli.{command.replace('-', '_')}").cli_main()


def _python(given: list[str]) -> object:
    if given[0] != "-m":
        os.execv(sys.executable, [sys.executable, *given])
    module, *rest = given[1:]
    if module.startswith("user_dir.cli."):
        return _call(module.removeprefix("user_dir.cli."), rest)
    sys.argv = [module, *rest]
    return runpy.run_module(module, run_name="__main__", alter_sys=True)
