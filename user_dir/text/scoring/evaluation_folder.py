"""The folder of an evaluation: its settings, and which of its files are translations.

A translation is a file with exactly the name that a direction of the corpus gives it; whatever
else lies in the folder is the user's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from user_dir.errors import CorpusError, UserError
from user_dir.text.pairs import Pair
from user_dir.text.scoring.test_sets import (
    Translated,
    directions_of,
    read_test_set,
    read_translated,
    translation_name,
)
from user_dir.text.whole_output import write_whole

SETTINGS, SCORES = "settings.json", "scores.json"
GIVEN_SET = "test-set"  # where a set that was named by its files is kept


def translations_in(folder: Path, corpus: Path, subset: str) -> dict[Pair, Path]:
    """The finished translations of a corpus's directions, by the direction's name."""
    paths = {one: folder / translation_name(subset, one) for one in directions_of(corpus, subset)}
    return {one: paths[one] for one in sorted(paths, key=str) if paths[one].is_file()}


def read_settings(folder: Path, *, flag: str) -> dict[str, Any] | None:
    """What the translations were made with; None where nothing is written down.

    Raises:
        UserError: the file is damaged; the message names it and the flag.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, flag, str(error)) from None
    if not isinstance(settings, dict) or not all(
        isinstance(settings.get(name), str) for name in ("corpus", "subset")
    ):
        raise _damaged(path, flag, "it names no corpus and subset")
    return settings


def read_evaluation(folder: Path, *, flag: str) -> list[Translated]:
    """The directions whose translation is complete, by name.

    Raises:
        UserError: there is none, or its corpus is gone or differs; the message names the flag.
    """
    settings = read_settings(folder, flag=flag)
    if settings is None:
        raise UserError(
            f"{flag} ({folder}) holds no {SETTINGS}; name a folder that scomoe-evaluate wrote"
        )
    corpus, subset = folder / settings["corpus"], settings["subset"]
    found = []
    for direction in translations_in(folder, corpus, subset):
        one = read_translated(folder, subset, read_test_set(corpus, subset, direction))
        if one is not None:
            found.append(one)
    if not found and not (corpus / "raw").is_dir():
        raise CorpusError(
            f"{flag} ({folder}): the corpus that it is scored against ({corpus}) is not there"
        )
    if not found:
        raise CorpusError(f"{flag} ({folder}) holds no translation; evaluate it to the end")
    return found


def open_folder(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or see that what it holds was made with the same settings.

    With `overwrite` the translations of other settings are removed.

    Raises:
        UserError: they differ, or the folder holds something else.
    """
    try:
        before = read_settings(folder, flag="--output")
    except UserError:
        if not overwrite:
            raise
        before = {}
    settings = json.loads(json.dumps(settings))  # as they are read again
    if before is None and folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output ({folder}) exists and holds something else; name another folder")
    if before is not None:
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed and not overwrite:
            raise UserError(
                f"--output ({folder}) holds translations with other settings "
                f"({', '.join(changed)} changed); name another folder, or add --overwrite"
            )
        if changed:
            corpus, subset = folder / settings["corpus"], settings["subset"]
            for path in translations_in(folder, corpus, subset).values():
                path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n", flag="--output")


def _damaged(path: Path, flag: str, reason: str) -> UserError:
    return UserError(
        f"{flag}: {path} is damaged ({reason}); scomoe-evaluate --overwrite translates anew, or "
        "name another folder"
    )
