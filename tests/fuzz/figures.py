"""The figures of a fuzz in ``benchmarks/reliability/README.md``: the section "Fuzz", and no other."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "benchmarks" / "reliability" / "README.md"
TEXT = """\
## Fuzz

Malformed input of every kind to every reader and to the command line (`tests/fuzz`): {cases:,} cases in {minutes:.0f}
minutes, by

    make fuzz ARGS="{words}"

on {date}, commit {commit} ({machine}, load {load}).

- refused: by one message, on the command line with exit code 2;
- warned: read, with a warning that it is damaged or cannot be checked;
- unchanged: damaged where it does not matter, or made anew (data cache): the content is that of the sound file;
- accepted: what no checksum guards (files of a user's own), edits with a checksum that fits, and values that are sound.

Files that cilspl writes are damaged by flipped bits, other bytes, cuts, doubled, lost, zeroed and exchanged blocks;
"damage accepted" counts those that were read as another content, without an error and without a warning. A traceback is
any other exception, exit code or crash, or a message over several lines; a hang a case over 20 s. Each family runs in a
process of its own, whose peak memory stands in the last column; torch and MLflow alone take about 400 MB of it.

{table}
"""


def row_of(family: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A family's figures, of what its worker found."""
    counts, failures = found["counts"], [one["result"] for one in found["failures"]]
    return {
        "family": family,
        "cases": sum(counts.values()),
        **{name: counts.get(name, 0) for name in ("refused", "warned", "unchanged", "accepted")},
        "damage accepted": failures.count("damage accepted"),
        "tracebacks": sum(failures.count(name) for name in ("traceback", "crash", "no message")),
        "hangs": failures.count("hang"),
        "slowest": f"{found['slowest']:.2f} s",
        "memory": f"{found['peak'] / 1e6:.0f} MB",
    }


def write(rows: Sequence[dict[str, Any]], seconds: float, words: str, path: Path = README) -> None:
    """The section, in the place of the one that is there; all else is left as it is."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import machine
    import markdown

    total: dict[str, Any] = {"family": "all"}
    for key in rows[0]:
        if isinstance(rows[0][key], int):
            total[key] = sum(row[key] for row in rows)
    for key, unit in (("slowest", " s"), ("memory", " MB")):
        total[key] = max((row[key] for row in rows), key=lambda text: float(text.removesuffix(unit)))
    text = TEXT.format(
        cases=total["cases"],
        minutes=seconds / 60,
        words=words,
        table=markdown.table("family", [{key: row[key] for key in rows[0]} for row in (*rows, total)]),
        **machine.about(),
    )
    path.parent.mkdir(exist_ok=True)
    held = path.read_text(encoding="utf-8") if path.exists() else "# Reliability\n"
    found = re.search(r"^## Fuzz\n.*?(?=^## |\Z)", held, re.DOTALL | re.MULTILINE)
    if found is None:
        held = f"{held.rstrip()}\n\n{text}"
    else:
        after = held[found.end() :]
        held = held[: found.start()] + text + (f"\n{after}" if after else "")
    path.write_text(held, encoding="utf-8")
