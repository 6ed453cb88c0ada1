"""fairseq's trainer, which takes its own share of a checkpoint out of the file."""

import copy
import os
import time
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.logging import meters, metrics
from fairseq.trainer import Trainer, logger

from user_dir.checkpoints.model_state import fairseq_state
from user_dir.errors import MisfitError, UserError


class MappingTrainer(Trainer):
    """fairseq's `Trainer`, but that each process maps a checkpoint's file and keeps its own share.

    fairseq reads all of it in one process, and sends all of it to all others.
    """

    def load_checkpoint(
        self,
        filename,
        reset_optimizer=False,
        reset_lr_scheduler=False,
        optimizer_overrides=None,
        reset_meters=False,
    ):
        """Load model, optimizer and progress; returns the latter as the file has it.

        Raises:
            UserError: the file does not fit the model, the criterion or the optimizer.
        """
        if not os.path.isfile(filename) or self._shares_otherwise():
            return super().load_checkpoint(
                filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters
            )
        logger.info(f"Preparing to load checkpoint {filename}")
        path = Path(filename)
        state = fairseq_state(path)
        self._optim_history = state["optimizer_history"]
        self._load_weights(path, state)
        if state.get("last_optimizer_state") is not None and not reset_optimizer:
            self._load_optimizer(
                path, state, optimizer_overrides, keeps_schedule=not reset_lr_scheduler
            )
        # Meters hold tensors, which must not stay in the file: it may be written anew.
        extra_state = copy.deepcopy(state["extra_state"])
        self._load_progress(extra_state, reset_meters=reset_meters)
        epoch, updates = extra_state["train_iterator"]["epoch"], self.get_num_updates()
        logger.info(f"Loaded checkpoint {filename} (epoch {epoch} @ {updates} updates)")
        return extra_state

    def _shares_otherwise(self) -> bool:
        """Whether fairseq spreads or keeps more than a model and an optimizer."""
        sharding = self.cfg.distributed_training.zero_sharding
        return self.is_fsdp or self.tpu or self.cfg.ema.store_ema or sharding != "none"

    def _load_weights(self, path: Path, state: dict[str, Any]) -> None:
        self.model.set_num_updates(self._optim_history[-1]["num_updates"])
        try:
            self.model.load_state_dict(state["model"], strict=True, model_cfg=self.cfg.model)
            if utils.has_parameters(self.get_criterion()):
                self.get_criterion().load_state_dict(state["criterion"], strict=True)
        except MisfitError as error:
            raise MisfitError(f"{path} does not fit the model: {error}") from None
        except RuntimeError as error:  # torch's, of a model of fairseq's
            reason = " ".join(str(error).split())
            raise MisfitError(f"{path} does not fit the model: {reason[:300]}") from None

    def _load_optimizer(
        self, path: Path, state: dict[str, Any], overrides: Any, *, keeps_schedule: bool
    ) -> None:
        self._build_optimizer()  # of the weights as they are now
        last = self._optim_history[-1]
        for name, part in (
            ("criterion_name", self.get_criterion()),
            ("optimizer_name", self.optimizer),
        ):
            if last.get(name) != type(part).__name__:
                raise UserError(
                    f"{path} was trained with {last.get(name)}, not {type(part).__name__}; "
                    "--reset-optimizer goes on with a new one"
                )
        if keeps_schedule:
            self.lr_scheduler.load_state_dict(last["lr_scheduler_state"])
        try:
            self.optimizer.load_state_dict(state["last_optimizer_state"], overrides)
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: its optimizer state does not fit ({error}); --reset-optimizer goes on "
                "with a new one"
            ) from None
        _take_out_of_the_file(self.optimizer.optimizer)
        self.set_num_updates(last["num_updates"])

    def _load_progress(self, extra_state: dict[str, Any], *, reset_meters: bool) -> None:
        iterator = extra_state["train_iterator"]
        if "previous_training_time" in extra_state:
            self._previous_training_time = extra_state["previous_training_time"]
            self._start_time = time.time()
        self.lr_step(iterator["epoch"])
        begins_epoch = iterator.get("version", 1) >= 2 and iterator["iterations_in_epoch"] == 0
        if "metrics" in extra_state and not reset_meters and not begins_epoch:
            metrics.load_state_dict(extra_state["metrics"])
            for meter in metrics.get_meters("default"):
                if isinstance(meter, meters.TimeMeter):
                    meter.reset()  # it began in another process


def _take_out_of_the_file(optimizer: torch.optim.Optimizer) -> None:
    """Copy state that is still mapped: the file may be written anew while it is in use."""
    for values in optimizer.state.values():
        for name, value in values.items():
            if torch.is_tensor(value) and value.device.type == "cpu":
                values[name] = value.clone()
