"""All lines of an evaluation in one table, for people and for programs such as COMET."""

from collections.abc import Iterable
from pathlib import Path

from user_dir.text.scoring.test_sets import Translated
from user_dir.text.whole_output import whole_file

SEGMENTS = "segments.tsv"


def write_segments(
    folder: Path, translated: Iterable[Translated], *, documents: list[str] | None, name: str
) -> None:
    """Write direction, document, line in it, source, translation and references of every line.

    The columns are called as in COMET's own tables; nothing is quoted.

    Args:
        documents: of each line; None: all are of one that is called `name`.
    """
    translated = list(translated)
    count = max(1 + len(one.test_set.more_references) for one in translated)
    references = ["ref", *(f"ref{number}" for number in range(2, count + 1))]
    with whole_file(folder / SEGMENTS, flag="--output") as file:
        file.write(("\t".join(["lp", "doc", "line", "src", "mt", *references]) + "\n").encode())
        for one in translated:
            for row in _rows(one, documents, name):
                file.write(("\t".join(row) + "\n").encode())


def _rows(one: Translated, documents: list[str] | None, name: str) -> Iterable[list[str]]:
    test_set = one.test_set
    columns = [test_set.sources, one.translations, test_set.references, *test_set.more_references]
    document, line = name, 0
    for index, texts in enumerate(zip(*columns, strict=True)):
        if documents is not None and documents[index] != document:
            document, line = documents[index], 0
        line += 1
        yield [str(test_set.direction), document, str(line), *texts]
