"""SCoMoE for fairseq: importing this package registers its models, tasks, criterion, optimizer.

The levels that know nothing of fairseq (routing to clustering, and the text tools) import
without it; whatever needs fairseq says how to get it (docs/installation.md).
"""

from importlib.util import find_spec

if find_spec("fairseq") is not None:
    from user_dir import register  # noqa: F401
