"""A sweep of twelve short runs that is killed twice and typed again, against the same sweep left alone.

    python benchmarks/reliability/sweeps.py

Each runs in a folder of its own. The kills come by SIGKILL in the third run and by SIGTERM in the eighth, each in the
middle of its training. Exit code 1 if the tables or any figure of any run differ.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [
    "method=bptt,conversion",
    "seed=0,1,2,3,4,5",
    "trainer.epochs=4",
    "trainer.limit_batches=6",
    "trainer.threads=1",
    "tracking.enabled=false",
]
KILLS = [(signal.SIGKILL, 3), (signal.SIGTERM, 8)]  # in which run


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        began = time.monotonic()
        typed(whole)
        print(f"left alone: {len(figures(whole))} runs, {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        for kill, run in KILLS:
            code = typed(killed, kill, run)
            print(
                f"killed by {kill.name} in run {run}: exit code {code}, {len(figures(killed))} runs finished",
                flush=True,
            )
        code = typed(killed)
        print(
            f"typed once more: exit code {code}, {len(figures(killed))} runs, {time.monotonic() - began:.0f} s in all"
        )
        same = figures(whole) == figures(killed)
        tables = [next(folder.glob("runs/sweeps/*/*/table.csv")).read_text() for folder in (whole, killed)]
        figures_are = "are the same" if same else "DIFFER"
        print(f"figures of all runs {figures_are}, tables {'too' if tables[0] == tables[1] else 'DIFFER'}")
    return 0 if same and tables[0] == tables[1] and code == 0 else 1


def typed(folder: Path, kill: signal.Signals | None = None, run: int = 0) -> int:
    """Type the sweep; with a signal it is killed once the run of this number, from 1, has trained for an epoch."""
    folder.mkdir(exist_ok=True)
    with (folder / "said.txt").open("a") as said:
        command = [Path(sys.executable).with_name("cilspl"), "run", "-m", *WORDS]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        while kill is not None and process.poll() is None:
            begun = list(folder.glob("runs/sweeps/*/*/*/metrics.jsonl"))
            if len(begun) >= run:
                process.send_signal(kill)
                break
            time.sleep(0.02)
        return process.wait()


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """The final figures of each finished run, by its name."""
    found = {}
    for path in folder.glob("runs/sweeps/*/*/*/run.json"):
        info = json.loads(path.read_text())
        if info["status"] == "finished":
            found[path.parent.name] = info["metrics"]
    return found


if __name__ == "__main__":
    sys.exit(main())
