"""Rows of figures as a table in Markdown."""

from __future__ import annotations

from typing import Any


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """The first column is headed by the title, the others by the rows' keys."""
    keys = list(rows[0])
    cells = [
        [title if i == 0 else key for i, key in enumerate(keys)],
        *([str(row[key]) for key in keys] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])
