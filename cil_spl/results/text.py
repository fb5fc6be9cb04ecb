"""A results table as text.

Text that has to fit a terminal gives up its width step by step: settings go under their row, columns in which all
rows agree above the table, deviations under their means, names above their figures, and at last each figure has a line
of its own. No name is ever cut or broken; one that is wider than the terminal stands out of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from cil_spl.results.cells import Grid, cells_of, is_number, one_line
from cil_spl.results.table import Table

AGREED = ("Data set", "Target", "Bins", "Seeds", "n")  # may stand above the table
_GAP = 2


def as_lines(table: Table, width: int | None, styled: bool) -> str:
    whole = cells_of(table)
    lines = list(_fitted(whole, width, styled))
    notes = [line for note in table.notes for line in _wrapped([one_line(note)], width, "")]
    return "\n".join([*lines, "", *notes]) + "\n"


def _fitted(whole: Grid, width: int | None, styled: bool) -> Iterator[str]:
    """The lines of the widest form that fits."""
    one_line = whole.with_settings()
    if width is None or _width(one_line) <= width:
        yield from _lines(one_line, None, styled)
        return
    above, rest = ([], whole) if _width(whole) <= width else _agreed(whole)
    if above:
        yield from _items(above, width, "")
        yield ""
    if _width(rest) <= width or _width(_folded(rest)) <= width:
        yield from _lines(rest if _width(rest) <= width else _folded(rest), width, styled)
        return
    numbers = [k for k, head in enumerate(rest.heads) if is_number(head)]
    names = [k for k in range(len(rest.heads)) if k not in numbers]
    titles = [[row[k] for k in names if row[k]] for row in rest.cells]
    figures = _folded(rest.only(numbers))
    if _width(figures) <= width:
        yield from _lines(figures, width, styled, titles)
        return
    for k, title in enumerate(titles):
        if k:
            yield ""
        yield from _items(title, width, "")
        yield from _items(rest.settings[k], width, "  ", breakable=True)
        for column in numbers:
            yield f"  {rest.heads[column]}: {_bold(rest.cells[k][column], styled and (k, column) in rest.bold)}"


def _agreed(whole: Grid) -> tuple[list[str], Grid]:
    """What stands above the table since all rows agree in it, and the rest."""
    same = [k for k, head in enumerate(whole.heads) if head in AGREED and len({row[k] for row in whole.cells}) == 1]
    above = [f"{whole.heads[k]}: {whole.cells[0][k]}" for k in same]
    return above, whole.only([k for k in range(len(whole.heads)) if k not in same])


def _folded(whole: Grid) -> Grid:
    """Deviations and intervals under their means, units under their heads."""
    heads = [head.replace(" (%)", "\n(%)") for head in whole.heads]
    numbers = [is_number(head) for head in whole.heads]
    cells = [
        [_on_lines(cell) if number else cell for cell, number in zip(row, numbers, strict=True)] for row in whole.cells
    ]
    return Grid(heads, cells, whole.settings, whole.bold)


def _on_lines(cell: str) -> str:
    return cell.replace(" ± ", "\n± ").replace(" (", "\n(")


def _size(text: str) -> int:
    """How many columns of a terminal a text takes; some letters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _widths(whole: Grid) -> list[int]:
    every = [whole.heads, *whole.cells]
    return [max(_size(part) for row in every for part in row[k].split("\n")) for k in range(len(whole.heads))]


def _width(whole: Grid) -> int:
    widths = _widths(whole)
    return sum(widths) + _GAP * (len(widths) - 1)


def _lines(
    whole: Grid, width: int | None, styled: bool, titles: Sequence[Sequence[str]] | None = None
) -> Iterator[str]:
    """Heads, a rule, and the rows; what stands above and under a row in lines of their own."""
    widths = _widths(whole)
    right = [is_number(head.replace("\n", " ")) for head in whole.heads]
    yield from _row(whole.heads, widths, right)
    yield "─" * (sum(widths) + _GAP * (len(widths) - 1))
    for k, row in enumerate(whole.cells):
        tall = titles is not None or any("\n" in cell for one in whole.cells for cell in one)
        if k and (tall or any(whole.settings)):
            yield ""
        if titles is not None:
            yield from _items(titles[k], width, "")
        bold = [styled and (k, column) in whole.bold for column in range(len(row))]
        yield from _row(row, widths, right, bold)
        yield from _items(whole.settings[k], width, "  ", breakable=True)


def _row(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], bold: Sequence[bool] | None = None
) -> Iterator[str]:
    parts = [cell.split("\n") for cell in cells]
    for line in range(max(map(len, parts))):
        shown = []
        for k, part in enumerate(parts):
            text = part[line] if line < len(part) else ""
            space = " " * (widths[k] - _size(text))
            text = _bold(text, bold is not None and bold[k])
            shown.append(space + text if right[k] else text + space)
        yield (" " * _GAP).join(shown).rstrip()


def _bold(text: str, wanted: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if wanted and text else text


def _items(items: Sequence[str], width: int | None, indent: str, breakable: bool = False) -> Iterator[str]:
    """As many in a line as fit; one that is too long by itself is broken between its words, and in one if it may be."""
    line = ""
    for item in items:
        if line and width is not None and _size(indent + line) + 3 + _size(item) > width:
            yield from _wrapped([line], width, indent, breakable)
            line = ""
        line = f"{line}   {item}" if line else item
    if line:
        yield from _wrapped([line], width, indent, breakable)


def _wrapped(lines: Sequence[str], width: int | None, indent: str, breakable: bool = False) -> Iterator[str]:
    for line in lines:
        if width is None or _size(indent + line) <= width:
            yield indent + line
            continue
        yield from textwrap.wrap(
            line,
            max(width, len(indent) + 1),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=breakable,
            break_on_hyphens=False,
            drop_whitespace=True,
            replace_whitespace=False,
        )
