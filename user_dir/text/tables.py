"""Small tables for the terminal."""

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows below the header: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(_format_row(row, widths) for row in [header, *rows])


def _format_row(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = widths
    cells = [row[0].ljust(first)]
    cells += [cell.rjust(width) for cell, width in zip(row[1:], others, strict=True)]
    return "  ".join(cells).rstrip()
