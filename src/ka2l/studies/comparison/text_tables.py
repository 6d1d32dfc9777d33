"""Tables of text laid out for Markdown and for the terminal; names in them are the user's and stay harmless."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


class View(NamedTuple):
    """A table as text: a title, the names of the columns, rows of cells; the first `words` columns are no numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def markdown_table(view: View) -> str:
    """Aligned, so that it reads well as it stands."""
    rows = [view.columns, *((code_span(row[0]), *map(prose, row[1:])) for row in view.rows)]
    widths = [max(3, *(_width(row[at]) for row in rows)) for at in range(len(view.columns))]
    rule = [":" + "-" * (w - 1) if at < view.words else "-" * (w - 1) + ":" for at, w in enumerate(widths)]
    lines = [_padded(row, widths, view.words) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def aligned(rows: Sequence[tuple[str, ...]], words: int = 1) -> str:
    """Columns aligned with spaces, the first `words` of them to the left."""
    rows = [tuple(one_line(cell) for cell in row) for row in rows]
    widths = [max(_width(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(_padded(row, widths, words)).rstrip() for row in rows)


def _padded(row: Sequence[str], widths: Sequence[int], words: int) -> list[str]:
    spaces = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    return [
        cell + space if at < words else space + cell
        for at, (cell, space) in enumerate(zip(row, spaces, strict=True))
    ]


def _width(text: str) -> int:
    """Columns on a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def one_line(text: str, limit: int = 32) -> str:
    """Printable, on one line, and short: a policy's name is the user's."""
    line = " ".join(
        "".join(char if char.isprintable() or char.isspace() else "\ufffd" for char in text).split()
    )
    return line if len(line) <= limit else line[: limit - 1] + "…"


def code_span(text: str) -> str:
    """A name as a code span that cannot end early, also in a table."""
    return "`" + (one_line(text).replace("`", "'").replace("|", "\\|") or " ") + "`"


def prose(text: str) -> str:
    """Text that holds names, with nothing left that Markdown or HTML would read as markup."""
    line = " ".join(
        "".join(char if char.isprintable() or char.isspace() else "\ufffd" for char in text).split()
    )
    for char in "\\`|[]":
        line = line.replace(char, f"\\{char}")
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", line)


def text(view: View) -> str:
    """A table for the terminal: columns aligned, no rules."""
    return aligned([view.columns, *view.rows], view.words)
