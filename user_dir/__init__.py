"""SCoMoE for fairseq: under `--user-dir user_dir` its models, tasks, criterion, optimizer register.

fairseq imports this package, so it is there already then. Whoever comes without it, a command that
prints its help or a tool for text, need not wait for it; `user_dir.register` is imported where a
model is built.
"""

import sys

if "fairseq" in sys.modules:
    from user_dir import register  # noqa: F401
