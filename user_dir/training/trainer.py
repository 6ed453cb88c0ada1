"""fairseq's trainer, which loses nothing when something goes wrong."""

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils

from user_dir.training.console.console import Console
from user_dir.training.divergence import find_divergence
from user_dir.training.failures import NotFinite, out_of_memory
from user_dir.training.loading import MappingTrainer
from user_dir.training.statistics import RunStatistics
from user_dir.training.stopping import stop_if_agreed

# In a checkpoint: the validation that a run was about to make when it saved; None if there is none.
DUE = "validation_due"


class CarefulTrainer(MappingTrainer):
    """fairseq's `Trainer`, but for what it does out of memory, on NaN, and before validation.

    Attributes:
        saved_updates: the update after which training was last loaded, or saved unscored.
        statistics: told of every update and validation; None: nobody asks here.
        console: told how far training and validation are; None: nobody looks here.
    """

    def __init__(self, cfg, task, model, criterion, quantizer=None):
        super().__init__(cfg, task, model, criterion, quantizer)
        self.saved_updates: int | None = None
        self.statistics: RunStatistics | None = None
        self.console: Console | None = None
        # fairseq calls this after each validation of a subset; no task of its own has it.
        task.post_validate = self._after_validation
        self._subset = ""
        self._samples: list = []
        self._train_iterator: Any = None
        self._due: dict | None = None

    @property
    def is_alone(self) -> bool:
        return self.data_parallel_world_size == 1

    def sum_of_all(self, number: float) -> float:
        """The sum of the numbers of all processes, which all call it: a collective."""
        if self.is_alone:
            return number
        sum_ = torch.tensor(float(number), device=self.device)
        dist.all_reduce(sum_, group=self.data_parallel_process_group)
        return float(sum_)

    def train_step(self, samples, raise_oom=False):
        """One update; raises `StopAgreed` after one at which all processes agree to stop."""
        self._samples = samples  # to be looked at again if their gradients are not finite
        if self.statistics is not None:
            self.statistics.begin_update()
        logging_output = super().train_step(samples, raise_oom)
        if self.statistics is not None:
            self.statistics.end_update(self.get_num_updates(), self._state)
        if self.console is not None:
            self.console.end_update(self.get_num_updates())
        stop_if_agreed()
        return logging_output

    def valid_step(self, sample, raise_oom=False):
        """One batch of a validation, which ends here where a stop is agreed on."""
        logging_output = super().valid_step(sample, raise_oom)
        if self.console is not None:
            self.console.end_batch()
        stop_if_agreed()
        return logging_output

    def get_valid_iterator(self, subset, disable_iterator_cache=False):
        """fairseq's; validation of that subset follows."""
        self._subset = subset
        batches = super().get_valid_iterator(subset, disable_iterator_cache)
        if self.console is not None:
            self.console.begin_validation(subset, len(batches))
        return batches

    def _after_validation(self, model, stats, meters) -> None:
        if self.statistics is not None:
            measured = {"bleu": stats["bleu"]} if "bleu" in stats else {}
            state = {**self._state(), "subset": self._subset, **measured}
            self.statistics.end_validation(self.get_num_updates(), state)

    def _state(self) -> dict[str, float]:
        iterator = self._train_iterator
        return {
            "epoch": 0 if iterator is None else iterator.epoch,
            "wall": round(float(self.cumulative_training_time()), 1),
            "lr": self.get_lr(),
        }

    def _reduce_and_log_stats(self, logging_outputs, sample_size, grad_norm=None):
        """fairseq's, where the logging outputs of all processes have just been added up."""
        if self.statistics is not None and logging_outputs is not None:
            is_update = grad_norm is not None
            add = self.statistics.add_update if is_update else self.statistics.add_validation
            add(logging_outputs)
        return super()._reduce_and_log_stats(logging_outputs, sample_size, grad_norm)

    def _log_oom(self, exc):
        """fairseq goes on after this; its peers would pair their batches with other ones."""
        super()._log_oom(exc)
        if not self.is_alone:
            raise out_of_memory(
                exc,
                process_index=self.data_parallel_rank,
                num_processes=self.data_parallel_world_size,
            ) from exc

    def clip_grad_norm(self, clip_norm):
        """Clip by the norm over all processes.

        Raises:
            NotFinite: training has diverged; names the layer. fairseq would save `crash.pt`,
                which needs the experts of processes that do not give them, and search with hooks
                that cannot read the outputs of an encoder.
        """
        try:
            norm = super().clip_grad_norm(clip_norm)
        except FloatingPointError as error:  # fp16's loss scale has no room left
            raise self._divergence(str(error)) from None
        if not self.cfg.common.amp and not torch.isfinite(norm).all():
            raise self._divergence("the gradient's norm is not finite")
        return norm

    def _divergence(self, what: str) -> NotFinite:
        self._set_seed()
        self.zero_grad()
        mine = find_divergence(self.get_model(), self._repeat_step)
        everyones = [mine] * self.data_parallel_world_size
        if not self.is_alone:
            dist.all_gather_object(everyones, mine)
        places = [place for place in everyones if place is not None]
        where = f"{places[0]} is not finite" if places else "every layer's output is finite"
        return NotFinite(
            f"training diverged at update {self.get_num_updates() + 1}: {what}, and {where}; run "
            "the same command with a lower --lr, more --warmup-updates or a smaller --clip-norm "
            "to go on from the last checkpoint, or start anew with them"
        )

    def _repeat_step(self) -> None:
        for sample in self._samples:
            sample, _ = self._prepare_sample(sample)
            self.task.train_step(
                sample, self.model, self.criterion, self.optimizer, self.get_num_updates()
            )

    def consolidate_optimizer(self):
        """Gather what a checkpoint holds, a collective; not while a failure is handled."""
        if not self._is_failing():
            super().consolidate_optimizer()

    def save_checkpoint(self, filename, extra_state):
        """fairseq's; not while a failure is handled. Notes a validation that is still to come."""
        if self._is_failing():
            return None
        return super().save_checkpoint(filename, {**extra_state, DUE: self._due})

    def _is_failing(self) -> bool:
        """Whether fairseq wants to save `crash.pt`, for which the others are not gathering."""
        return sys.exc_info()[0] is not None and not self.is_alone

    def get_train_iterator(self, *args, **kwargs):
        """fairseq's; kept, since a checkpoint says how far it has come."""
        self._train_iterator = super().get_train_iterator(*args, **kwargs)
        return self._train_iterator

    def begin_valid_epoch(self, epoch):
        """Save first where a checkpoint is due after the validation, which may take long."""
        if self.saved_updates != self.get_num_updates() and self._is_save_due():
            is_end = self._train_iterator.end_of_epoch()
            self._due = {"update": self.get_num_updates(), "epoch": epoch, "is_end": is_end}
            self.save(only_last=True)
            self._due = None
        if self.statistics is not None:
            self.statistics.pause()
        super().begin_valid_epoch(epoch)

    def save(self, *, only_last: bool) -> None:
        """Save what no validation has scored; a collective.

        Args:
            only_last: write `checkpoint_last.pt` alone: the other files follow.
        """
        cfg = copy.deepcopy(self.cfg.checkpoint)
        if only_last and not cfg.no_last_checkpoints:
            cfg.no_epoch_checkpoints = True
            cfg.save_interval_updates = 0
        checkpoint_utils.save_checkpoint(cfg, self, self._train_iterator, None)
        self.saved_updates = self.get_num_updates()

    def is_finished(self) -> bool:
        """Whether --max-update or --stop-time-hours is reached."""
        last, hours = self.cfg.optimization.max_update, self.cfg.optimization.stop_time_hours
        return (0 < last <= self.get_num_updates()) or (
            0 < hours < self.cumulative_training_time() / 3600
        )

    def _is_save_due(self) -> bool:
        """Whether fairseq saves after this update's validation (its `validate_and_save`)."""
        iterator, updates = self._train_iterator, self.get_num_updates()
        every = self.cfg.checkpoint.save_interval_updates
        return (
            self.is_finished()
            or (iterator.end_of_epoch() and iterator.epoch % self.cfg.checkpoint.save_interval == 0)
            or (
                every > 0
                and updates % every == 0
                and updates >= self.cfg.dataset.validate_after_updates
            )
        )
