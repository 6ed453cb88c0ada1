"""Importing this module registers everything that fairseq has to know by name."""

import sys

from user_dir.checkpoints import command_line, safe_loading
from user_dir.training import criterion, optimizer, task, usage
from user_dir.transformer import architectures

safe_loading.allow_fairseq_checkpoints()
command_line.end_with_sentences(sys.argv)
command_line.check_command(sys.argv)
usage.check_command(sys.argv)

__all__ = ["architectures", "criterion", "optimizer", "task"]
