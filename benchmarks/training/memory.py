"""Part ``memory``: by how much a step lets the process grow, each side in a process of its own.

    python benchmarks/training/memory.py SIDE BINS BATCH     one of them, in megabytes

Growth is the peak of resident memory in the step, less that before it; a step of two bins before has loaded what is
loaded once. The lean mode is allowed more time than the default one, so both are timed too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import sides
import turns
from turns import Options, judged, shown, told

from cil_spl.base import process

OF_LEANEST, OVER_FLOOR = 0.5, 1.8
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """Growth of every side, and the aims of the lean mode."""
    bins = 10 if options.quick else 100
    names = [name for name in sides.all_sides() if not (options.quick and name in sides.peers.PEERS)]
    names.insert(1, sides.LEAN)
    grown = {}
    for name in names:
        told(f"memory: {name}")
        command = [sys.executable, __file__, name, str(bins), str(options.batch)]
        answer = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=os.environ).stdout
        grown[name] = float(json.loads(answer.splitlines()[-1]))
    table = [{"side": name, "MB": f"{value:.1f}"} for name, value in grown.items()]
    return [(f"growth in a step of {bins} bins", table), ("aim of the lean mode", aims(grown, bins, options))]


def aims(grown: dict[str, float], bins: int, options: Options) -> list[dict[str, Any]]:
    """Memory against the leanest peer, time against the convolutions."""
    process.set_threads(1)
    problem = sides.random_problem(bins, options.batch)
    names = [name for name in (sides.OURS, sides.LEAN, sides.FLOOR) if name in (*grown, sides.FLOOR)]
    times = turns.taken({name: sides.make_side(name, problem) for name in names}, options.repeats, turns.clock_of(1))
    others = {name: value for name, value in grown.items() if name in sides.peers.PEERS}
    if sides.LEAN not in grown:
        return [{"what": "this tree has no lean mode", "figure": "", "aim": "", "reached": ""}]
    ratio = min(times[sides.LEAN]) / min(times[sides.FLOOR])
    said = ", ".join(f"{name} {shown(times[name])}" for name in names)
    rows = [judged(f"lean, its time over the floor's ({said} ms)", ratio, OVER_FLOOR)]
    if others:
        leanest = min(others, key=lambda one: others[one])
        rows.append(
            judged(f"lean, growth over the leanest peer's ({leanest})", grown[sides.LEAN] / others[leanest], OF_LEANEST)
        )
    return rows


def growth(name: str, bins: int, batch: int) -> float:
    """Megabytes by which this process grows in a step."""
    if name in (sides.OURS, sides.LEAN):
        process.prepare(0, 1, "cpu")  # as a run does: what is freed is kept
    else:
        process.set_threads(1)
    sides.make_side(name, sides.random_problem(2, batch))()
    step = sides.make_side(name, sides.random_problem(bins, batch))
    _give_back()
    restarted = _restart_peak()
    before = _status("VmRSS") if restarted else _peak()
    step()
    return (_status("VmHWM") if restarted else _peak()) - before


def _give_back() -> None:
    """Hand freed memory to the system, or the step would take what was made and dropped before it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _restart_peak() -> bool:
    """Let the kernel count the peak from now; False where it cannot."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _status(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(growth(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
