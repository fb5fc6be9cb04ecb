"""``cilspl restore``: make the tracking copy of runs again from their folders."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl restore",
        description="Make the tracking copy of runs again from their folders, which are the truth. "
        "Runs that the store still has are left alone.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a folder of runs")
    parser.add_argument("--uri", help="the store (default: MLFLOW_TRACKING_URI, else that of the run)")
    given = parser.parse_args(argv)

    from cil_spl.results import runs
    from cil_spl.results.record import RUN_FILE
    from cil_spl.results.restore import restore
    from cil_spl.results.store import anchor

    for name in given.runs:
        path = Path(name)
        below = runs.scan(path) if path.is_dir() and not (path / RUN_FILE).exists() else [runs.find(name)]
        for run in below:
            if run.status == "running" or run.info.get("refused"):
                continue
            uri = anchor(given.uri) if given.uri else None
            print(f"{restore(run.folder, uri)}  {run.folder}")
    return 0
