"""How long one waits: from `cilspl run` to its first training step, and for `cilspl table` over many runs.

    python benchmarks/start/bench.py            both; --part step or table for one of them; --quick a table of 20 runs
    python benchmarks/start/bench.py --write    also record results.json and README.md's tables

The run has a store that exists, and warm caches. The store of the table is made through the project's own classes.
Seconds by the clock are the shortest of some runs; beside them stand those on the processor, of user and system, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import about
from markdown import table

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
STEP_AIM, TABLE_AIM = 8.0, 5.0  # seconds
RUNS = 500
SHORT = ("trainer.epochs=1", "trainer.limit_batches=2")
Tables = list[tuple[str, list[dict[str, Any]]]]


def main() -> None:
    """Measure and print; with --write also record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=RUNS, help="of the table")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.repeats, given.runs = 1, 20
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.part:
        with tempfile.TemporaryDirectory(prefix="cilspl-start-") as folder:
            tables = PARTS[name](Path(folder), given)
        print("\n\n".join(table(title, rows) for title, rows in tables), end="\n\n", flush=True)
        known[name] = about() | {"tables": tables}
    if given.write:
        record(known)


def first_step(folder: Path, given: argparse.Namespace) -> Tables:
    """Seconds of each stage up to the first step, of the fastest run."""
    timed([sys.executable, "-m", "cil_spl.cli", "run", *SHORT], folder)  # makes the store, and warms the caches
    runs = [
        json.loads(timed([sys.executable, str(HERE / "first_step.py"), "{now}"], folder).output.splitlines()[-1])
        for _ in range(given.repeats)
    ]
    best = min(runs, key=lambda marks: marks[-1][1])
    rows, clock, worked = [], 0.0, 0.0
    for what, at, cpu in best:
        rows.append({"what": what, "s": f"{at - clock:.2f}", "user + sys, s": f"{cpu - worked:.2f}"})
        clock, worked = at, cpu
    found = judged("from `cilspl run` to the end of its first step", clock, worked, STEP_AIM)
    return [("stages of a run's start", rows), ("aim of the start", [found])]


def of_many(folder: Path, given: argparse.Namespace) -> Tables:
    """Seconds of a table over a store of finished runs, and over their folders."""
    from fabricate import fabricate

    began = time.monotonic()
    fabricate(folder, given.runs)
    print(f"a store of {given.runs} runs in {time.monotonic() - began:.0f} s", file=sys.stderr)
    rows = []
    for what, words in (("the store", ()), ("their folders", ("--from", "runs"))):
        done = [timed([sys.executable, "-m", "cil_spl.cli", "table", *words], folder) for _ in range(given.repeats)]
        best = min(done, key=lambda one: one.seconds)
        rows.append(judged(f"`cilspl table` over {given.runs} runs, from {what}", best.seconds, best.worked, TABLE_AIM))
    return [("aim of the table", rows)]


PARTS: dict[str, Callable[[Path, argparse.Namespace], Tables]] = {"step": first_step, "table": of_many}


class Timed:
    """A process that has ended: seconds by the clock and on the processor, and what it printed."""

    def __init__(self, seconds: float, worked: float, output: str) -> None:
        self.seconds, self.worked, self.output = seconds, worked, output


def timed(command: Sequence[str], folder: Path) -> Timed:
    """Run a command in a folder that has a store of its own; ``{now}`` in it is when it starts.

    Raises:
        SystemExit: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [word.replace("{now}", repr(time.time())) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: code {done.returncode}\n{done.stderr}")
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(seconds, worked, done.stdout)


def judged(what: str, seconds: float, worked: float, aim: float) -> dict[str, Any]:
    """A row: seconds, the aim, and whether it was reached."""
    return {
        "what": what,
        "s": f"{seconds:.2f}",
        "user + sys, s": f"{worked:.2f}",
        "aim": f"{aim:g} s",
        "reached": "yes" if seconds <= aim else "no",
    }


def record(known: dict[str, Any]) -> None:
    """results.json, and the tables between README.md's two marks."""
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    texts = []
    for part in known.values():
        texts.append("{date}, {machine}, load {load}, commit {commit}.".format(**part))
        texts += [table(title, rows) for title, rows in part["tables"]]
    before, rest = README.read_text().split("<!-- figures -->\n")
    after = rest.split("<!-- end of figures -->\n")[1]
    text = "\n\n".join(texts)
    README.write_text(f"{before}<!-- figures -->\n{text}\n<!-- end of figures -->\n{after}")


if __name__ == "__main__":
    main()
