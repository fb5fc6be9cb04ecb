"""The metrics of a run: ``metrics.jsonl`` in its folder, one line per epoch, each with a checksum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import json_line, read_json_line, unchecked, warn_once, write_text
from cil_spl.results.values import is_time, is_timing

METRICS_FILE = "metrics.jsonl"
_LISTED = 20  # damaged lines that a warning names


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``.

    A last line torn by a kill is left out; so is a damaged one, with a warning.

    Raises:
        RequestError: the file cannot be read.
    """
    path = folder / METRICS_FILE
    try:
        *lines, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror or error}); take it from a copy of the run, or delete it"
        ) from error
    found: list[tuple[int, dict[str, Any], bool]] = []
    damaged = []
    for number, line in enumerate([*lines, torn] if torn else lines, 1):
        try:
            content, checked = read_json_line(line)
            _check_line(content)
            found.append((number, content, checked))
        except ValueError:
            if number <= len(lines):
                damaged.append(number)
    if any(checked for _, _, checked in found):  # a version that writes checksums wrote all of them
        damaged = sorted([*damaged, *(number for number, _, checked in found if not checked)])
        found = [line for line in found if line[2]]
    elif found:
        warn_once(unchecked(path))
    if damaged:
        listed = ", ".join(map(str, damaged[:_LISTED])) + (", …" if len(damaged) > _LISTED else "")
        warn_once(f"{path}: damaged lines are left out: {listed}")
    return [content for _, content, _ in found]


def extent(folder: Path) -> dict[str, Any]:
    """How much of ``metrics.jsonl`` there is, and its digest: lines that are lost or doubled show by no other."""
    path = folder / METRICS_FILE
    content = path.read_bytes() if path.exists() else b""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_logged(folder: Path, info: Mapping[str, Any]) -> None:
    """Warn where ``metrics.jsonl`` is not what a run had logged when it ended; an extension that was begun adds to it.

    Args:
        info: the run's record, with what :func:`extent` gave then, where it has that.
    """
    logged = info.get("logged")
    if not logged:
        return
    path = folder / METRICS_FILE
    content = path.read_bytes() if path.is_file() else b""
    if info.get("extension") and isinstance(logged.get("bytes"), int):
        content = content[: logged["bytes"]]
    if len(content) != logged.get("bytes") or hashlib.sha256(content).hexdigest() != logged.get("sha256"):
        warn_once(f"{path}: not as the run left it: lines are missing, doubled or changed; take it from a copy")


def _check_line(line: Mapping[str, Any]) -> None:
    """Refuse a line that is not a step, a time and numbers.

    Raises:
        ValueError: it is another.
    """
    step = line.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 1 << 62:
        raise ValueError("no step")
    if "time" in line and not is_time(line["time"]):
        raise ValueError("no time")
    for key, value in line.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if key != "time" and value is not None and not number:
            raise ValueError(f"{key} is no number")


def write_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """``metrics.jsonl`` with these lines and no others."""
    write_text(folder / METRICS_FILE, "".join(json_line(line) + "\n" for line in lines))


def same_but_for_time(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two lines of metrics say the same; how long something took may differ."""

    def plain_of(line: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in line.items() if k != "time" and not is_timing(k)}

    return plain_of(a) == plain_of(b)
