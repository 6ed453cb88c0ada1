"""The scores of an evaluation as files: markdown, TSV, and JSON with all digits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from user_dir.text.scoring.evaluation_folder import SCORES
from user_dir.text.scoring.score_tables import Row, score_table
from user_dir.text.scoring.tables import format_markdown, format_tsv
from user_dir.text.whole_output import write_whole

SCORE_FILES = ("scores.md", "scores.tsv", SCORES)


def write_scores(
    folder: Path, rows: Sequence[Row], means: Sequence[Row], signatures: Mapping[str, str]
) -> None:
    """Write the rows of all directions and of their means into an evaluation's folder."""
    header, cells = score_table([*rows, *means])
    record = {
        "signatures": dict(signatures),
        "directions": [row.record() for row in rows],
        "means": [row.record() for row in means],
    }
    notes = "".join(f"\n{name}: {text}" for name, text in signatures.items())
    texts = (
        f"{format_markdown(header, cells)}\n{notes}\n",
        format_tsv(header, cells) + "\n",
        json.dumps(record, indent=2) + "\n",
    )
    for name, text in zip(SCORE_FILES, texts, strict=True):
        write_whole(folder / name, text, flag="--output")
