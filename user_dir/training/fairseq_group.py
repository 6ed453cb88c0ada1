"""fairseq's own group of all processes."""

from datetime import timedelta

import torch.distributed as dist
from fairseq.distributed.utils import get_global_group


def make_fairseq_group(*, timeout_minutes: float) -> None:
    """Make it with a time-out: fairseq, which keeps it, would give it none. A collective."""
    timeout = timedelta(minutes=timeout_minutes)
    get_global_group._global_group = dist.new_group(timeout=timeout)
