"""What `scomoe-train --help` shows, made without fairseq."""

import argparse
import textwrap

from user_dir.option_values import finite_number, positive
from user_dir.training.declared import CRITERION, OF_FAIRSEQ, TASKS, Declared
from user_dir.transformer.flag_examples import EXAMPLES
from user_dir.transformer.flags import OPTION_GROUPS

DEFAULT_TIMEOUT_MINUTES = 60.0
_RUNNING = (
    Declared(
        "--processes",
        None,
        "processes of this machine, each with its share of the experts (default: one for each GPU, "
        "or one on CPUs)",
        example="2",
        read=positive,
    ),
    Declared(
        "--distributed-timeout-minutes",
        DEFAULT_TIMEOUT_MINUTES,
        "end with a sentence when other processes do not answer for so long; must be longer than "
        "it takes to save a checkpoint. At the start they are waited for 10 minutes",
        example="15",
        read=finite_number(least=0.01, most=1e6),
    ),
    Declared(
        "--trust-checkpoint",
        False,
        "start from a checkpoint whose architecture, task or criterion is neither ours nor one of "
        "fairseq's for translation",
    ),
    Declared("--debug", False, "show the stack trace of an error beside its sentence"),
    Declared("--help-all", False, "list fairseq's options too; takes seconds"),
)
_DECLARED_GROUPS = (
    ("running", _RUNNING),
    ("what hardly a run does without (fairseq's)", OF_FAIRSEQ),
    ("batches, with --task scomoe_translation and scomoe_multilingual_translation", TASKS),
    ("loss and statistics, with --criterion moe_cross_entropy", CRITERION),
)
_WIDTH = 100
_DESCRIPTION = """Trains a translation model with mixtures of experts on DATA, a folder `bin` of
scomoe-prepare or what fairseq-preprocess wrote. Started again with the same options, it goes on
from the last checkpoint; Ctrl-C saves one and ends."""
_EPILOG = """\
It prints a header, a line each --log-interval updates, validations and checkpoints; the whole log
is in train.log beside the checkpoints. --log-format json (simple, tqdm, none) or --log-file prints
the log instead.

under torchrun or srun every task takes its place by itself:
  torchrun --nproc-per-node 8 -m user_dir.cli.train DATA --arch scomoe_base ...
  srun --ntasks-per-node 8 scomoe-train DATA --arch scomoe_large ...

an example:
  scomoe-train corpora/mine/bin --task scomoe_translation -s en -t de --arch scomoe_tiny \\
    --criterion moe_cross_entropy --optimizer moe_adam --lr 3e-3 --max-tokens 1024 --max-epoch 5
"""


class UsageError(Exception):
    """argparse's words for what is wrong with the options."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """The help of an option, its default unless the help tells it, and its example."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=_WIDTH)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # flags stay whole

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_told = (
            action.default in (None, argparse.SUPPRESS) or "(default" in text or "needed" in text
        )
        if not is_told and action.default is not False:
            text += f" (default: {action.default})"
        flag = action.option_strings[-1]
        example = example_of(flag)
        return f"{text}; e.g. {flag} {example}" if example else text


def example_of(flag: str) -> str:
    """A value that the option takes; empty for a switch."""
    declared = {one.flag: one.example for _, group in _DECLARED_GROUPS for one in group}
    return {**EXAMPLES, **declared}.get(flag, "")


def option_parser() -> argparse.ArgumentParser:
    """A parser of what --help shows; raises `UsageError`."""
    parser = _Parser(
        prog="scomoe-train",
        usage="scomoe-train DATA --arch ARCH [options below, or any other of fairseq-train]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    for title, declared in _DECLARED_GROUPS:
        group = parser.add_argument_group(title)
        for option in declared:
            option.add_to(group)
    for title, add_options in OPTION_GROUPS:
        add_options(parser.add_argument_group(title))
    return parser


def print_all_options() -> None:
    """Print every option of a run with our model, task, criterion and optimizer, all registered."""
    from fairseq import options
    from fairseq.dataclass.utils import gen_parser_from_dataclass
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    parser = options.get_training_parser(default_task="scomoe_translation")
    parser.prog = "scomoe-train"
    parser.usage = "scomoe-train DATA --arch ARCH [options]"
    running = parser.add_argument_group("running")
    for option in _RUNNING:
        option.add_to(running)
    ARCH_MODEL_REGISTRY["scomoe"].add_args(parser.add_argument_group("model"))
    TASK_REGISTRY["scomoe_translation"].add_args(parser.add_argument_group("task"))
    for kind, name in (
        ("criterion", "moe_cross_entropy"),
        ("optimizer", "moe_adam"),
        ("lr_scheduler", "inverse_sqrt"),
    ):
        dataclass = REGISTRIES[kind]["dataclass_registry"][name]
        group = parser.add_argument_group(f"--{kind.replace('_', '-')} {name}")
        gen_parser_from_dataclass(group, dataclass())
    parser.print_help()
