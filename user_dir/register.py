"""Importing this module registers everything that fairseq has to know by name."""

from user_dir.checkpoints import safe_loading
from user_dir.training import criterion, optimizer, task
from user_dir.transformer import architectures

safe_loading.allow_fairseq_checkpoints()

__all__ = ["architectures", "criterion", "optimizer", "task"]
