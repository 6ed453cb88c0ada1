"""fairseq's own trainers in this process, on made sentences, and the arithmetic that they do."""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from user_dir.cli import make_dummy_corpus
from user_dir.fast_moe.experts.ffn import ExpertFFN

LANGUAGES = ("en", "fr")


def require_fairseq(benchmark: str) -> None:
    """Ends the program with one sentence where there is no fairseq."""
    if find_spec("fairseq") is None:
        raise SystemExit(
            f"{benchmark}: fairseq cannot be imported; docs/installation.md says how to install it"
        )


SILENCED = ("fairseq", "hydra", "user_dir")


def silence() -> None:
    """Keep logs and what fairseq's dependencies think of it out of a table; for good."""
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def make_corpus(folder: Path, *, sentences: int, vocab_size: int, length: str = "28-32") -> Path:
    """A binarised corpus of random sentences, by default of about 30 tokens, so that batches are
    hardly padded."""
    options = ["--out", str(folder), "--sentences", str(sentences), "--length", length]
    with contextlib.redirect_stdout(io.StringIO()):
        make_dummy_corpus.main([*options, "--vocab-size", str(vocab_size)])
    return folder / "bin"


def build_trainer(data: Path, options: Sequence[str]) -> Any:
    """A `fairseq.trainer.Trainer` as `fairseq-train DATA OPTIONS` makes it."""
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.tasks import setup_task
    from fairseq.trainer import Trainer

    from user_dir import register  # noqa: F401 - registers the models

    parser = fairseq_options.get_training_parser()
    source, target = LANGUAGES
    given = [str(data), "--task", "translation", "-s", source, "-t", target, *options]
    args = fairseq_options.parse_args_and_arch(parser, input_args=given)
    args.tpu = False  # fairseq takes --bf16 for a TPU
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(cfg.common.seed)
    task = setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def make_batches(trainer: Any, count: int) -> list[dict]:
    """The fullest batches of the training data, of the trainer's --max-tokens."""
    trainer.task.load_dataset("train")
    batches = trainer.task.get_batch_iterator(
        trainer.task.dataset("train"),
        max_tokens=trainer.cfg.dataset.max_tokens,
        seed=trainer.cfg.common.seed,
    )
    samples = list(batches.next_epoch_itr(shuffle=False))
    return sorted(samples, key=lambda sample: sample["ntokens"])[-count:]


def train(trainer: Any, batches: Sequence[dict]) -> None:
    """One update for each batch."""
    for batch in batches:
        trainer.train_step([batch])


def run_backward(trainer: Any, batches: Sequence[dict]) -> None:
    """The forward and backward pass of each batch, without an update."""
    from fairseq.utils import move_to_cuda

    for batch in batches:
        trainer.zero_grad()
        sample = move_to_cuda(batch) if trainer.cuda else batch
        trainer.task.train_step(
            sample, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates()
        )


@contextlib.contextmanager
def counting_feed_forward(model: nn.Module) -> Iterator[Counter]:
    """Counts the multiply-adds of feed-forward layers in forward passes, by stack.

    A row counts if it is multiplied: padded positions in dense layers, empty slots in experts.
    """
    counts: Counter = Counter()
    hooks = []
    for name, module in model.named_modules():
        stack, layer = name.partition(".")[0], name.rpartition(".")[2]
        if isinstance(module, ExpertFFN):
            weights = module.weight1_LDH[0].numel() + module.weight2_LHD[0].numel()
        elif isinstance(module, nn.Linear) and layer in ("fc1", "fc2"):
            weights = module.weight.numel()
        else:
            continue

        def count(_, inputs, stack=stack, weights=weights) -> None:
            counts[stack] += inputs[0].shape[:-1].numel() * weights

        hooks.append(module.register_forward_pre_hook(count))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
