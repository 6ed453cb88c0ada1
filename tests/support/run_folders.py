"""Folders as runs leave them: statistics, and an evaluation of a small corpus."""

import json
from pathlib import Path

from user_dir.reporting.statistics_file import STATISTICS, append_record

DIRECTIONS = ("en-de", "de-en")


def write_run(folder: Path, *, updates: int = 40, every: int = 10, speed: float = 900.0) -> Path:
    """The statistics of a run of two layers of four experts, with a validation at the end."""
    folder.mkdir(parents=True)
    path = folder / STATISTICS
    options = {
        "max_update": 40,
        "lr": [speed / 1e6],
        "arch": "scomoe_tiny",
        "save_dir": str(folder),
    }
    append_record(
        path,
        {
            "kind": "run",
            "updates": 0,
            "command": "scomoe-train </script> --arch scomoe_tiny",
            "versions": {"torch": "2.13"},
            "machine": {"device": "CPU"},
            "processes": 2,
            "parameters": {"total": 1000, "experts": 600, "active": 700},
            "layout": {"nodes": 2, "ranks_per_node": 2, "experts": 4, "experts_per_rank": 1},
            "kinds": {"encoder.moe0": "cluster", "encoder.moe1": "seq"},
            "options": options,
            "directions": list(DIRECTIONS),
        },
    )
    for now in range(every, updates + 1, every):
        append_record(path, _record("train", now, tokens_per_second=speed, lr=0.001))
    append_record(path, _record("valid", updates, subset="valid", bleu=12.5))
    return folder


def _record(kind: str, updates: int, **values) -> dict:
    cluster = {
        "kind": "cluster",
        "tokens_local": 0,
        "tokens_node": 0,
        "tokens_global": 80,
        "bytes_rank": 10,
        "bytes_node": 20,
        "bytes_between": 70,
        "load": [10, 20, 20, 30],
        "by_direction": {"en-de": [10, 10, 0, 0], "de-en": [0, 10, 20, 30]},
        "cluster_bits": {"token": 1.0, "language": 0.5, "frequency": 0.2},
    }
    seq = {
        **cluster,
        "kind": "seq",
        "overflow1": 0.1,
        "overflow2": 0.2,
        "unrouted": 0.0,
        "entropy": 1.2,
        "balance_loss": 1.1,
    }
    del seq["by_direction"], seq["cluster_bits"]
    losses = {"loss": 90 / updates, "nll_loss": 80 / updates, "tokens": 300, "batches": 10}
    layers = {"encoder.moe0": cluster, "encoder.moe1": seq}
    return (
        {"kind": kind, "updates": updates, **losses, "wall": 2.0 * updates}
        | values
        | {"layers": layers}
    )


def write_evaluation(folder: Path, *, translations: dict[str, list[str]] | None = None) -> Path:
    """An evaluation of a corpus of both directions; the corpus lies inside the folder."""
    corpus = folder / "corpus"
    english = ["a small house", "two <b>big</b> trees & a fox", "no", "one more line"]
    german = ["ein kleines Haus", "zwei große Bäume", "nein", "noch eine Zeile"]
    (corpus / "raw").mkdir(parents=True)
    for language, lines in ("en", english), ("de", german):
        path = corpus / "raw" / f"test.en-de.{language}"
        path.write_text("".join(f"{line}\n" for line in lines))
    found = translations or {
        "en-de": ["ein kleines Haus", "zwei <script>alert(1)</script> Bäume", "ja", "eine Zeile"],
        "de-en": ["a small house", "two trees", "no", "one more line"],
    }
    for direction, lines in found.items():
        target = direction.split("-")[1]
        (folder / f"test.{direction}.{target}").write_text("".join(f"{line}\n" for line in lines))
    settings = {"corpus": str(corpus), "subset": "test"}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder
