"""The metrics of a run: ``metrics.jsonl`` in its folder, one line per epoch, each with a checksum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base.files import json_line, read_json_line, unchecked, warn_once, write_text
from cil_spl.results.values import is_timing

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``.

    A last line torn by a kill is left out; so is a damaged one, with a warning.
    """
    path = folder / METRICS_FILE
    *lines, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found, damaged, old = [], [], False
    for number, line in enumerate([*lines, torn] if torn else lines, 1):
        try:
            content, checked = read_json_line(line)
            # Earlier versions wrote no checksum. Their values are numbers, so any other text is one that was hit.
            if not checked and any(isinstance(value, str) for key, value in content.items() if key != "time"):
                raise ValueError
        except ValueError:
            if number <= len(lines):
                damaged.append(number)
            continue
        found.append(content)
        old = old or not checked
    if old:
        warn_once(unchecked(path))
    if damaged:
        warn_once(f"{path}: damaged lines are left out: {', '.join(map(str, damaged))}")
    return found


def write_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """``metrics.jsonl`` with these lines and no others."""
    write_text(folder / METRICS_FILE, "".join(json_line(line) + "\n" for line in lines))


def same_but_for_time(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two lines of metrics say the same; how long something took may differ."""

    def plain_of(line: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in line.items() if k != "time" and not is_timing(k)}

    return plain_of(a) == plain_of(b)
