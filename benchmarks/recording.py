"""What statistics cost an update: a record every 25 updates with counts by direction, against none.

    python -m benchmarks.recording                    (about five minutes on one core)

Two trainers of `scomoe-train` make the same updates of one model on numbers in words, eight
languages to and from English, in turns of 25 updates, in which the one writes a record. Figures are
processor time of this process, which a busy machine disturbs less than wall time; the share is the
median of the turns' ratios, with the middle half of them.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Timing, parse_arguments, write_results
from benchmarks.trainers import require_fairseq, silence
from user_dir.cli import prepare_numbers
from user_dir.text.scoring.tables import format_markdown

# Updates of a turn, and of a record.
INTERVAL, SMALL_INTERVAL = 25, 2
LANGUAGES = ("cs", "de", "es", "fr", "id", "lt", "pl", "vi")
HEADER = ("model", "none, ms", "statistics, ms", "they cost")


def main() -> None:
    """Measure; print a table and write JSON."""
    args = parse_arguments(__doc__)
    require_fairseq("benchmarks.recording")
    silence()
    interval = SMALL_INTERVAL if args.small else INTERVAL
    with tempfile.TemporaryDirectory() as folder:
        turns = make_turns(Path(folder), interval=interval, small=args.small)
        seconds = measure_turns(turns, interval=interval, repeat=args.repeat)
    record = {
        "model": "small" if args.small else "scomoe_tiny, 2 x 4, 1024 tokens",
        "interval": interval,
        "directions": 2 * (1 if args.small else len(LANGUAGES)),
        "seconds": {name: Timing.of(of_one) for name, of_one in seconds.items()},
        "ratios": [on / off for off, on in zip(*seconds.values(), strict=True)],
    }
    print(format_markdown(HEADER, [_row(record)]))
    print(f"\nwritten to {write_results('recording', [record], args)}")


def make_turns(folder: Path, *, interval: int, small: bool) -> dict[str, Callable[[], None]]:
    """A turn of updates without statistics, and one with them; both are warm."""
    corpus = folder / "numbers"
    sizes = ["--train-pairs-per-language", "300", "--valid-lines", "40", "--test-lines", "40"]
    languages = LANGUAGES[:1] if small else LANGUAGES
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare_numbers.main(["--out", str(corpus), "--languages", ",".join(languages), *sizes])
    pairs = ",".join(f"en-{one},{one}-en" for one in languages)
    turns = {}
    for name, every in ("none", 0), ("statistics", interval):
        save_dir = folder / name
        save_dir.mkdir()
        options = [*_options(corpus, pairs, small=small), "--save-dir", str(save_dir)]
        options += ["--moe-statistics-interval", str(every)]
        turns[name] = make_turn([str(corpus / "bin"), *options], interval)
        turns[name]()
    return turns


def make_turn(arguments: Sequence[str], updates: int) -> Callable[[], None]:
    """So many updates on the fullest batches, as `scomoe-train ARGUMENTS` makes them."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from user_dir import register  # noqa: F401 - registers the models
    from user_dir.training.run_record import open_statistics
    from user_dir.training.trainer import CarefulTrainer

    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=list(arguments))
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    trainer = CarefulTrainer(cfg, task, model, task.build_criterion(cfg.criterion))
    batches = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=False))
    fullest = sorted(batches, key=lambda batch: batch["ntokens"])[-5:]
    trainer.statistics = open_statistics(cfg, trainer)
    return partial(_train, trainer, [fullest[i % len(fullest)] for i in range(updates)])


def measure_turns(
    turns: dict[str, Callable[[], None]], *, interval: int, repeat: int
) -> dict[str, list[float]]:
    """Seconds of processor time that an update of every turn took."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(repeat):
        # Each goes first as often as the other.
        for name in sorted(turns, reverse=number % 2 == 1):
            start = time.process_time()
            turns[name]()
            seconds[name].append((time.process_time() - start) / interval)
    return seconds


def _train(trainer, batches: Sequence[dict]) -> None:
    for batch in batches:
        trainer.train_step([batch])


def _options(corpus: Path, pairs: str, *, small: bool) -> list[str]:
    options = ["--task", "scomoe_multilingual_translation", "--lang-pairs", pairs]
    options += ["--lang-dict", str(corpus / "bin" / "langs.txt"), "--encoder-langtok", "tgt"]
    options += ["--arch", "scomoe_tiny", "--moe-nodes", "2", "--moe-ranks-per-node", "4"]
    options += ["--criterion", "moe_cross_entropy", "--label-smoothing", "0.1"]
    options += ["--optimizer", "moe_adam", "--adam-betas", "(0.9, 0.98)", "--lr", "1e-4"]
    options += ["--clip-norm", "1", "--max-tokens", "32" if small else "128", "--cpu"]
    options += ["--num-workers", "0", "--seed", "1", "--disable-validation"]
    if small:
        for stack in "encoder", "decoder":
            options += [f"--{stack}-layers", "2", f"--{stack}-embed-dim", "16"]
    return options


def _row(record: dict) -> tuple[str, ...]:
    low, middle, high = np.quantile(record["ratios"], [0.25, 0.5, 0.75])
    return (
        record["model"],
        *(str(record["seconds"][name]) for name in ("none", "statistics")),
        f"{middle - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})",
    )


if __name__ == "__main__":
    main()
