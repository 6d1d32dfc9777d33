"""Tables of text laid out for Markdown and for the terminal; names in them come from the user and are escaped."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


class View(NamedTuple):
    """A table as text: a title, the names of the columns, and rows of cells.

    The first `text_columns` columns are text and aligned to the left; the others are numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def markdown_table(view: View) -> str:
    """The table in Markdown, with aligned columns so that the source is readable too."""
    rows = [view.columns, *((code_span(row[0]), *map(prose, row[1:])) for row in view.rows)]
    widths = [max(3, *(_width(row[at]) for row in rows)) for at in range(len(view.columns))]
    rule = [
        ":" + "-" * (width - 1) if at < view.text_columns else "-" * (width - 1) + ":"
        for at, width in enumerate(widths)
    ]
    lines = [_padded(row, widths, view.text_columns) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def aligned(rows: Sequence[tuple[str, ...]], text_columns: int = 1) -> str:
    """Columns aligned with spaces, the first `text_columns` of them to the left."""
    rows = [tuple(one_line(cell) for cell in row) for row in rows]
    widths = [max(_width(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(_padded(row, widths, text_columns)).rstrip() for row in rows)


def _padded(row: Sequence[str], widths: Sequence[int], text_columns: int) -> list[str]:
    spaces = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    return [
        cell + space if at < text_columns else space + cell
        for at, (cell, space) in enumerate(zip(row, spaces, strict=True))
    ]


def _width(text: str) -> int:
    """Width on a terminal: East Asian characters take two columns."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def one_line(text: str, limit: int = 32) -> str:
    """Printable, on one line, and at most `limit` characters: a policy's name comes from the user."""
    line = _printable_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _printable_line(text: str) -> str:
    """One line; characters that cannot be printed become U+FFFD."""
    return " ".join("".join(char if char.isprintable() or char.isspace() else "\ufffd" for char in text).split())


def code_span(text: str) -> str:
    """A name as a code span; the name cannot end the span, also not in a table."""
    return "`" + (one_line(text).replace("`", "'").replace("|", "\\|") or " ") + "`"


def prose(text: str) -> str:
    """Text that contains names, with everything escaped that Markdown or HTML would read as markup."""
    line = _printable_line(text)
    for char in "\\`|[]":
        line = line.replace(char, f"\\{char}")
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", line)


def text(view: View) -> str:
    """The table for the terminal: aligned columns, no rules."""
    return aligned([view.columns, *view.rows], view.text_columns)
