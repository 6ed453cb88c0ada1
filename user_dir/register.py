"""Importing this module registers everything that fairseq has to know by name."""

from user_dir import safe_loading
from user_dir.fast_moe import architectures, criterion, optimizer, task

safe_loading.allow_fairseq_checkpoints()

__all__ = ["architectures", "criterion", "optimizer", "task"]
