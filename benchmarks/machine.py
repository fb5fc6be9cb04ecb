"""The machine that figures come from."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path


def processor() -> str:
    """The processor's name and the number of cores at hand."""
    try:
        text = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in text if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def about() -> dict[str, object]:
    """When, on what and with what something was measured."""
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=9", "HEAD"]
    done = subprocess.run(commit, capture_output=True, text=True, check=False)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "load": round(os.getloadavg()[0], 2),
        "commit": done.stdout.strip(),
    }
