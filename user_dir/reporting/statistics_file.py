"""The file of a run's statistics: JSON lines beside the checkpoints; docs/statistics.md.

A record is written whole and at once, so that only the last one can be cut off. A run that goes
on from a checkpoint makes the updates after it anew; their records are dropped before.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from user_dir.text.whole_output import write_whole

STATISTICS = "moe_statistics.jsonl"
SCHEMA = 1


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record; what is no finite number becomes null.

    Raises:
        OSError: it could not be written.
    """
    line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, which may be growing; what is damaged is left out.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("updates"), int):
                yield record


def drop_later_records(path: Path, updates: int) -> None:
    """Leave only the records up to an update, whole ones; nothing if there is no file.

    Raises:
        OSError, UserError: it cannot be read or written.
    """
    if not path.exists():
        return
    kept = [record for record in read_records(path) if record["updates"] <= updates]
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in kept)
    write_whole(path, "".join(f"{line}\n" for line in lines), flag="--save-dir")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
