"""The options of our criterion and tasks, and those that a run needs of fairseq, for --help.

Imports nothing of fairseq, so that --help need not wait. What fairseq is told of ours is made from
the same declarations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def numbers(text: str) -> str:
    """A type for argparse: numbers with commas between, which fairseq reads again."""
    for one in text.strip("[]() ").split(","):
        float(one)
    return text


@dataclass(frozen=True)
class Declared:
    """An option with its default and an example; a switch where the default is False."""

    flag: str
    default: Any
    help: str
    example: str = ""
    choices: tuple[str, ...] | None = None
    short: str | None = None
    read: Callable[[str], Any] = str

    def add_to(self, parser) -> None:
        """Add it to a parser or group of argparse."""
        names = [self.short, self.flag] if self.short else [self.flag]
        if self.default is False:
            parser.add_argument(*names, action="store_true", help=self.help)
            return
        parser.add_argument(
            *names,
            default=self.default,
            choices=self.choices,
            type=self.read,
            metavar=None if self.choices else self.flag.rpartition("-")[2].upper(),
            help=self.help,
        )

    def field(self) -> Any:
        """What a dataclass of fairseq declares it by."""
        return field(default=self.default, metadata={"help": self.help})


GATE_LOSS_WEIGHT = Declared(
    "--moe-gate-loss-wt",
    0.01,
    "weight of the balance loss in the training loss; 0.01 is usual",
    example="0.02",
    read=float,
)
GATE_LOSS_COMBINED = Declared(
    "--moe-gate-loss-combine-method",
    "average",
    "how the balance losses of the layers are combined",
    example="sum",
    choices=("average", "sum"),
)
GATE_LOSS_TRANSFORM = Declared(
    "--moe-gate-loss-transform",
    "none",
    "none; neg-log of fairseq's MoE branch is refused, with the reason",
    example="none",
    choices=("none", "neg-log"),
)
STATISTICS_INTERVAL = Declared(
    "--moe-statistics-interval",
    100,
    "updates between two records of moe_statistics.jsonl beside the checkpoints, which "
    "scomoe-report shows; 0: no such file",
    example="500",
    read=int,
)
UNGROUPED = Declared(
    "--no-grouped-shuffling",
    False,
    "shuffle batches one by one; by default ranks get batches of like length at every step",
)
PAIR_TOKEN = Declared(
    "--encoder-lang-pair-token",
    False,
    "prepend a token of the language pair to the source (--encoder-langtok lang_pair of the "
    "paper's release), instead of a token of one language; with --task "
    "scomoe_multilingual_translation",
)
CRITERION = (GATE_LOSS_WEIGHT, GATE_LOSS_COMBINED, GATE_LOSS_TRANSFORM, STATISTICS_INTERVAL)
TASKS = (UNGROUPED, PAIR_TOKEN)

# Of the hundreds that fairseq has, what hardly a run does without; the defaults are fairseq's.
OF_FAIRSEQ = (
    Declared("--task", "translation", "what is learnt; needed", example="scomoe_translation"),
    Declared("--source-lang", None, "language of the source", example="en", short="-s"),
    Declared("--target-lang", None, "language of the target", example="de", short="-t"),
    Declared(
        "--arch",
        None,
        "scomoe_tiny, scomoe_base, scomoe_large, or scomoe of your sizes; needed",
        example="scomoe_base",
        short="-a",
    ),
    Declared("--criterion", "cross_entropy", "the loss", example="moe_cross_entropy"),
    Declared("--label-smoothing", 0.0, "of moe_cross_entropy", example="0.1", read=float),
    Declared("--optimizer", None, "needed", example="moe_adam"),
    Declared("--lr", "0.25", "learning rate; needed with moe_adam", example="3e-3", read=numbers),
    Declared("--lr-scheduler", "fixed", "how it changes", example="inverse_sqrt"),
    Declared("--warmup-updates", 4000, "with inverse_sqrt", example="200", read=int),
    Declared("--clip-norm", 0.0, "largest norm of a gradient; 0: any", example="1", read=float),
    Declared("--dropout", 0.1, "share of activations left out", example="0.2", read=float),
    Declared("--max-tokens", None, "tokens of a rank's batch", example="4096", read=int),
    Declared("--update-freq", "1", "batches of a rank in an update", example="4", read=numbers),
    Declared("--max-epoch", 0, "passes over the data; 0: any number", example="20", read=int),
    Declared("--max-update", 0, "updates; 0: any number", example="50000", read=int),
    Declared("--save-dir", "checkpoints", "folder of the checkpoints", example="model"),
    Declared("--seed", 1, "of all that is drawn", example="2", read=int),
    Declared("--cpu", False, "leave GPUs alone"),
    Declared("--bf16", False, "bfloat16; together with --fp16-no-flatten-grads"),
)
