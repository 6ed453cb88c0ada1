"""A training run in one process: fairseq's parts in fairseq's order, with our trainer."""

import logging
import math
import time
from dataclasses import dataclass

import numpy as np
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import data_utils
from fairseq.dataclass.initialize import add_defaults
from fairseq.logging import metrics
from fairseq_cli.train import train as train_epoch
from fairseq_cli.train import validate

from user_dir.errors import UserError
from user_dir.training.console.console import SAID, Console
from user_dir.training.console.header import header
from user_dir.training.failures import setting_up
from user_dir.training.run_record import open_statistics, run_record
from user_dir.training.stopping import StopAgreed, agree, num_requests, stop_if_agreed
from user_dir.training.trainer import DUE, CarefulTrainer

# fairseq's own name: its handlers and --log-file listen to it.
logger = logging.getLogger("fairseq_cli.train")


def train(cfg, console: Console | None = None) -> None:
    """Train as `fairseq-train` does, from the last checkpoint if there is one.

    Args:
        console: to be told what a person sees; None: nobody looks here.

    Raises:
        UserError: something that the user can mend; see `CarefulTrainer` for what ends training.
    """
    _check_options(cfg)
    utils.import_user_module(cfg.common)
    add_defaults(cfg)
    metrics.reset()
    if cfg.common.log_file is not None:
        logger.addHandler(logging.FileHandler(filename=cfg.common.log_file))
    np.random.seed(cfg.common.seed)
    utils.set_torch_seed(cfg.common.seed)
    logger.info(cfg)

    with setting_up():
        trainer = _build_trainer(cfg)
        extra_state, epochs = checkpoint_utils.load_checkpoint(
            cfg.checkpoint,
            trainer,
            # A sharded corpus has another dataset in the next epoch.
            disable_iterator_cache=trainer.task.has_sharded_data("train"),
        )
    trainer.saved_updates = trainer.get_num_updates()
    trainer.console = console
    if console is not None:
        record = run_record(cfg, trainer.get_model(), trainer.device)
        for line in header(cfg, trainer.task, record, updates=trainer.get_num_updates()):
            console.say(line)
    try:
        _go_on(cfg, trainer, epochs, extra_state or {})
        is_stopped = False
    except StopAgreed:
        is_stopped = True  # saved below: nothing may gather while an exception is handled
    if is_stopped:
        updates = trainer.get_num_updates()
        if trainer.saved_updates != updates:
            logger.info("asked to stop: saving and ending after update %d", updates, extra=SAID)
            trainer.save(only_last=False)
        elif updates:
            logger.info(
                "asked to stop: ending after update %d, which is saved", updates, extra=SAID
            )
        else:
            logger.info("asked to stop: ending before the first update", extra=SAID)


def _go_on(cfg, trainer: CarefulTrainer, epochs, extra_state: dict) -> None:
    """Train from where a checkpoint was saved; a validation that it waited for comes first."""
    # Asked while all this was loaded: not to be noticed after an update, which may take long.
    agree(trainer.sum_of_all(num_requests()))
    stop_if_agreed()
    due = extra_state.get(DUE)
    # Fine-tuning starts at update 0.
    if (due and due["update"] != trainer.get_num_updates()) or cfg.dataset.disable_validation:
        due = None
    is_finished = trainer.is_finished() or epochs.next_epoch_idx > _last_epoch(cfg)
    if due or not is_finished:
        trainer.statistics = open_statistics(cfg, trainer)
    if due:
        saved = _Saved(due["epoch"], due["is_end"], extra_state["train_iterator"])
        _make_up_for_validation(cfg, trainer, saved)
    if not is_finished:
        _train_epochs(cfg, trainer, epochs)
        return
    logger.info(
        "nothing to do: the run in %s is finished after %d updates; a larger --max-update, "
        "--max-epoch or --stop-time-hours, whichever ended it, goes on",
        cfg.checkpoint.save_dir,
        trainer.get_num_updates(),
        extra=SAID,
    )


@dataclass(frozen=True)
class _Saved:
    """Where in the data a checkpoint was saved, as `save_checkpoint` asks fairseq's iterator."""

    epoch: int
    is_end: bool
    state: dict

    def end_of_epoch(self) -> bool:
        return self.is_end

    def state_dict(self) -> dict:
        return self.state


def _make_up_for_validation(cfg, trainer: CarefulTrainer, saved: _Saved) -> None:
    """Validate and save as the run that saved before its validation and ended in it would have."""
    subsets = cfg.dataset.valid_subset.split(",")
    loss, *_ = validate(cfg, trainer, trainer.task, saved, subsets)
    checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, saved, loss)
    if saved.is_end:
        trainer.lr_step(saved.epoch, loss)


def _check_options(cfg) -> None:
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise UserError("--max-tokens or --batch-size is needed to say how large a batch is")
    for flag, is_given in (
        ("--model-parallel-size above 1", cfg.common.model_parallel_size > 1),
        ("--quantization-config-path", cfg.common.quantization_config_path is not None),
        ("--write-checkpoints-asynchronously", cfg.checkpoint.write_checkpoints_asynchronously),
        ("--tpu", cfg.common.tpu),
    ):
        if is_given:
            raise UserError(f"{flag} does not work with scomoe-train; leave it out")


def _build_trainer(cfg) -> CarefulTrainer:
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    logger.info(model)
    for name, part in ("task", task), ("model", model), ("criterion", criterion):
        logger.info("%s: %s", name, type(part).__name__)
    _log_sizes(model)
    if not cfg.dataset.disable_validation:
        data_utils.raise_if_valid_subsets_unintentionally_ignored(cfg)
        if cfg.dataset.combine_valid_subsets:
            task.load_dataset("valid", combine=True, epoch=1)
        else:
            for subset in cfg.dataset.valid_subset.split(","):
                task.load_dataset(subset, combine=False, epoch=1)
    trainer = CarefulTrainer(cfg, task, model, criterion)
    logger.info("training on %d devices", cfg.distributed_training.distributed_world_size)
    return trainer


def _log_sizes(model) -> None:
    """How many parameters this process has; in fairseq's words, which readers of logs know."""
    for kind in "shared", "expert":
        parameters = [p for p in model.parameters() if hasattr(p, "expert") == (kind == "expert")]
        total = sum(p.numel() for p in parameters)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        logger.info(f"num. {kind} model params: {total:,} (num. trained: {trained:,})")


def _train_epochs(cfg, trainer: CarefulTrainer, epochs) -> None:
    """fairseq's epochs, until an option of it ends training."""
    is_sharded = trainer.task.has_sharded_data("train")
    lr = trainer.get_lr()
    started = time.monotonic()
    while epochs.next_epoch_idx <= _last_epoch(cfg):
        if lr <= cfg.optimization.stop_min_lr:
            logger.info("stopping: the learning rate %g has come to --stop-min-lr", lr, extra=SAID)
            break
        _tell_how_long(cfg, trainer, epochs)
        valid_losses, should_stop = train_epoch(cfg, trainer, trainer.task, epochs)
        if should_stop:
            break
        lr = trainer.lr_step(epochs.epoch, valid_losses[0])
        epochs = trainer.get_train_iterator(
            epochs.next_epoch_idx, load_dataset=is_sharded, disable_iterator_cache=is_sharded
        )
    logger.info("done training in %.1f seconds", time.monotonic() - started, extra=SAID)


def _tell_how_long(cfg, trainer: CarefulTrainer, epochs) -> None:
    if trainer.console is None:
        return
    hours = cfg.optimization.stop_time_hours or math.inf
    trainer.console.expect_updates(
        trainer.get_num_updates(),
        _last_update(cfg, trainer.get_num_updates(), epochs),
        seconds_at_most=hours * 3600 - trainer.cumulative_training_time(),
    )


def _last_update(cfg, done: int, epochs) -> float:
    """The number of the last update if the epochs to come are as long as this one."""
    last_epoch, by_number = _last_epoch(cfg), cfg.optimization.max_update or math.inf
    if math.isinf(last_epoch):
        return by_number
    epoch, frequencies = epochs.next_epoch_idx, cfg.optimization.update_freq
    frequency = frequencies[min(epoch, len(frequencies)) - 1]
    begun = epochs.iterations_in_epoch if epoch == epochs.epoch else 0
    of_this = math.ceil((len(epochs) - begun) / frequency)
    of_others = math.ceil(len(epochs) / frequency) * (last_epoch - epoch)
    return min(by_number, done + of_this + of_others)


def _last_epoch(cfg) -> float:
    return cfg.optimization.max_epoch or math.inf
