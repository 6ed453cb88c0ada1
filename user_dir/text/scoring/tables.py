"""Tables for the terminal, for markdown and for spreadsheets."""

from collections.abc import Sequence

Cells = Sequence[str]


def format_table(header: Cells, rows: Sequence[Cells]) -> str:
    """The rows below the header: the first column flush left, the others flush right."""
    widths = _widths(header, rows)
    return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in [header, *rows])


def format_markdown(header: Cells, rows: Sequence[Cells]) -> str:
    """The same as a table of markdown."""
    widths = [max(width, 3) for width in _widths(header, rows)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_aligned(header, widths), rule, *(_aligned(row, widths) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_tsv(header: Cells, rows: Sequence[Cells]) -> str:
    """The same with tabs between the cells."""
    return "\n".join("\t".join(row) for row in [header, *rows])


def _widths(header: Cells, rows: Sequence[Cells]) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]


def _aligned(row: Cells, widths: Sequence[int]) -> list[str]:
    numbers = zip(row[1:], widths[1:], strict=True)
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in numbers)]
